//! What `remora doctor` asks of a libvirt host.

use std::time::Duration;

use remora_core::Error;
use virt::connect::Connect;

use crate::connection::{CallError, Repeat};
use crate::lock;
use crate::source::LibvirtSource;

/// A doctor does not wait for long; but a libvirt that has just been started asks each QEMU what it can do.
const LIMIT: Duration = Duration::from_mins(1);

/// One thing that a host must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is good.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, if it is not good.
    pub advice: Option<String>,
}

impl LibvirtSource {
    /// Looks whether backups can work here. Never fails: what cannot be found out is a check that is not good.
    pub async fn doctor(&self) -> Vec<Check> {
        let version = self.ask(|c| Ok(dotted(c.get_lib_version()?))).await;
        let reached = version.is_ok();
        let mut checks = vec![self.check("libvirt", version.map(|v| format!("{v} at {}", self.uri())))];
        if reached {
            let qemu = self.ask(|c| Ok(dotted(c.get_hyp_version()?))).await;
            checks.push(self.check("QEMU", qemu));
            checks.push(self.backup_jobs().await);
        }
        checks.push(self.run_dir_check());
        checks
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&Connect) -> Result<T, virt::error::Error> + Send + Sync + 'static,
    ) -> Result<T, CallError> {
        self.libvirt.call(LIMIT, Repeat::Safe, work).await
    }

    fn check(&self, name: &'static str, found: Result<String, CallError>) -> Check {
        match found {
            Ok(detail) => Check { name, ok: true, detail, advice: None },
            Err(error) => bad(name, &error.while_doing(format_args!("asking {}", self.uri()))),
        }
    }

    /// libvirt says `<backup supported='yes'/>` from 7.2 on, with a QEMU from 4.2 on.
    async fn backup_jobs(&self) -> Check {
        let name = "incremental backup";
        match self.ask(|c| c.get_domain_capabilities(None, None, None, None, 0)).await {
            Ok(xml) if backup_supported(&xml) => {
                Check { name, ok: true, detail: "libvirt and QEMU can do it".into(), advice: None }
            }
            Ok(_) => Check {
                name,
                ok: false,
                detail: "this libvirt with this QEMU cannot do it".into(),
                advice: Some("Upgrade to libvirt 7.2 and QEMU 4.2 or newer.".into()),
            },
            Err(error) => bad(name, &error.while_doing("asking for QEMU's capabilities")),
        }
    }

    fn run_dir_check(&self) -> Check {
        let (name, folder) = ("run folder", self.run_dir());
        let writable = lock::prepare_run_dir(folder).and_then(|()| {
            let probe = folder.join(format!(".doctor-{}", std::process::id()));
            let tried = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
            tried.map_err(|source| {
                Error::io(format!("writing to {}", folder.display()), source)
                    .advise("Run as root, or name a folder that this user may write to with --run-dir.")
            })
        });
        match writable {
            Ok(()) => Check { name, ok: true, detail: folder.display().to_string(), advice: None },
            Err(error) => bad(name, &error),
        }
    }
}

fn bad(name: &'static str, error: &Error) -> Check {
    Check { name, ok: false, detail: error.chain(), advice: error.advice().map(str::to_owned) }
}

fn backup_supported(capabilities: &str) -> bool {
    roxmltree::Document::parse(capabilities).is_ok_and(|document| {
        document.descendants().any(|n| n.has_tag_name("backup") && n.attribute("supported") == Some("yes"))
    })
}

/// libvirt's way to write versions: 9.0.0 is 9000000.
fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::LibvirtOptions;

    fn source(uri: &str, run_dir: &std::path::Path) -> LibvirtSource {
        let options =
            LibvirtOptions { connect: Some(uri.into()), run_dir: run_dir.into(), ..LibvirtOptions::new(Vec::new()) };
        LibvirtSource::new(options).unwrap()
    }

    #[tokio::test]
    async fn an_unreachable_libvirt_and_an_unwritable_folder_are_bad_and_say_what_to_do() {
        let blocked = tempfile::NamedTempFile::new().unwrap();
        let source = source("qemu+unix:///system?socket=/nonexistent", &blocked.path().join("run"));
        let checks = source.doctor().await;
        assert_eq!(
            checks.iter().map(|c| (c.name, c.ok)).collect::<Vec<_>>(),
            [("libvirt", false), ("run folder", false)]
        );
        assert!(checks.iter().all(|c| c.advice.is_some()), "{checks:?}");
    }

    #[tokio::test]
    async fn a_libvirt_without_backup_jobs_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let checks = source("test:///default", dir.path()).doctor().await;
        assert!(checks.iter().any(|c| c.name == "incremental backup" && !c.ok), "{checks:?}");
        assert!(checks.iter().any(|c| c.name == "run folder" && c.ok), "{checks:?}");
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the probe stays behind");
    }

    #[test]
    fn versions_and_capabilities_are_read() {
        assert_eq!(dotted(9_000_000), "9.0.0");
        assert_eq!(dotted(11_003_002), "11.3.2");
        assert!(backup_supported("<d><features><backup supported='yes'/></features></d>"));
        assert!(!backup_supported("<d><features><backup supported='no'/></features></d>"));
    }
}
