//! `remora doctor`

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use remora_core::{Error, ErrorKind, Result};
use remora_vault::{Finding, Need, examine};
use serde::Serialize;

use crate::context::Context;
use crate::output::{print, printable};

/// When this was written: a clock that is behind it is wrong.
const WRITTEN: &str = "2026-01-01T00:00:00Z";

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Whether all that is needed works without.
    optional: bool,
    detail: String,
    advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, found: Result<String>) -> Self {
        let optional = false;
        match found {
            Ok(detail) => Self { name, ok: true, optional, detail, advice: None },
            Err(error) => {
                Self { name, ok: false, optional, detail: error.chain(), advice: error.advice().map(ToOwned::to_owned) }
            }
        }
    }

    fn of(finding: Finding) -> Self {
        Self { optional: finding.need == Need::May, ..Self::new(finding.name, finding.outcome) }
    }

    const fn is_bad(&self) -> bool {
        !self.ok && !self.optional
    }
}

pub(super) async fn run(context: &Context, repo: Option<String>) -> Result<()> {
    let mut checks = match context.source() {
        Ok(source) => {
            let checks = source.doctor().await.into_iter();
            checks
                .map(|c| Check { name: c.name, ok: c.ok, optional: false, detail: c.detail, advice: c.advice })
                .collect()
        }
        Err(error) => vec![Check::new("libvirt", Err(error))],
    };
    checks.push(Check::new("FUSE", fuse()));
    checks.push(Check::new("appliance", appliance()));
    checks.extend(repository(context, repo).await);
    checks.push(Check::new("clock", clock(Timestamp::now())));
    let report = Report { ok: !checks.iter().any(Check::is_bad), checks };
    print(context.format(), &report, |report| report.checks.iter().map(text).collect())?;
    if report.ok {
        return Ok(());
    }
    let bad: Vec<_> = report.checks.iter().filter(|check| check.is_bad()).map(|check| check.name).collect();
    Err(Error::new(ErrorKind::Failed, format!("this host is not ready: {}", bad.join(", ")))
        .advise("Do what is advised above; what does not depend on these works."))
}

fn fuse() -> Result<String> {
    let device = Path::new("/dev/fuse");
    std::fs::OpenOptions::new().read(true).write(true).open(device).map_err(|e| {
        Error::io("opening /dev/fuse", e).advise("Load the kernel module fuse, and run as a user who may use it.")
    })?;
    program("fusermount3")
        .or_else(|| program("fusermount"))
        .map_or_else(|| Err(missing("fusermount3", "fuse3")), |path| Ok(format!("/dev/fuse and {}", path.display())))
}

fn appliance() -> Result<String> {
    let found = program("guestfish").ok_or_else(|| missing("guestfish", "libguestfs-tools"))?;
    let kernels = std::fs::read_dir("/boot").into_iter().flatten().filter_map(std::result::Result::ok);
    let readable = kernels
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"vmlinuz-"))
        .any(|entry| std::fs::File::open(entry.path()).is_ok());
    if readable {
        Ok(found.display().to_string())
    } else {
        Err(Error::new(ErrorKind::NotFound, "the appliance finds no kernel in /boot that it may read")
            .advise("Install a kernel package such as linux-image-cloud-amd64, and run as root."))
    }
}

/// The path of a program.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn missing(program: &str, package: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{program} is not installed"))
        .advise(format!("Install the package {package}; mount and cp need it, backup and restore do not."))
}

/// What the repository's store can do; of the one of the settings also whether it opens.
async fn repository(context: &Context, repo: Option<String>) -> Vec<Check> {
    let location = match &repo {
        Some(repo) => context.location_of(repo),
        None if context.settings.repo.is_none() => return Vec::new(),
        None => context.location(),
    };
    let found = match location {
        Ok(location) => examine(&location).await,
        Err(error) => Err(error),
    };
    let mut checks: Vec<Check> = match found {
        Ok(findings) => findings.into_iter().map(Check::of).collect(),
        Err(error) => return vec![Check::new("store", Err(error))],
    };
    if repo.is_none() {
        checks.push(Check::new("repository", opened(context).await));
    }
    checks
}

async fn opened(context: &Context) -> Result<String> {
    let status = context.vault().await?.status().await?;
    Ok(format!("{} with {} points", status.id, status.points))
}

fn clock(now: Timestamp) -> Result<String> {
    let written: Timestamp = WRITTEN.parse().map_err(|e| Error::new(ErrorKind::Failed, "a date of ours").because(e))?;
    if now < written {
        return Err(Error::new(ErrorKind::Failed, format!("the clock says {now}, before this program was written"))
            .advise("Set the clock; let chrony or systemd-timesyncd keep it."));
    }
    Ok(now.to_string())
}

fn text(check: &Check) -> String {
    let state = match (check.ok, check.optional) {
        (true, _) => "ok",
        (false, true) => "no",
        (false, false) => "BAD",
    };
    let advice = check.advice.iter().map(|advice| format!("       → {}\n", printable(advice)));
    let advice: String = advice.collect();
    format!("{state:4} {}: {}\n{advice}", check.name, printable(&check.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_the_past_is_bad() {
        assert!(clock("1970-01-01T00:10:00Z".parse().unwrap()).is_err());
        assert!(clock("2026-06-01T00:00:00Z".parse().unwrap()).is_ok());
    }
}
