//! Whose is the backup job that runs on a domain? Ours are known by their exports' names, `<checkpoint>.<disk>`; and
//! the calls that end one of ours, for the run itself, the next run, and the watchdog.

use std::fmt;
use std::time::{Duration, Instant};

use remora_core::{CheckpointName, DiskName, ErrorKind};
use roxmltree::Document;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};

use crate::connection::{DomainHandle, Repeat, USUAL};
use crate::raw;

/// How long the end of an aborted job may take.
const JOB_END: Duration = Duration::from_secs(30);

/// A backup job that runs on a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunningJob {
    /// One of ours, with the name of its new checkpoint.
    Ours(CheckpointName),
    /// Somebody else's; the text describes it.
    Foreign(String),
}

impl fmt::Display for RunningJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(checkpoint) => write!(f, "a backup job of remora (checkpoint {checkpoint})"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

impl RunningJob {
    /// From the job's XML. Ours only if every disk that takes part names the same checkpoint of ours.
    pub(crate) fn parse(xml: &str) -> Self {
        let Ok(document) = Document::parse(xml) else {
            return Self::Foreign("a backup job that libvirt describes badly".into());
        };
        let job = document.root_element();
        let exports: Vec<_> = document
            .descendants()
            .filter(|n| n.has_tag_name("disk") && n.attribute("backup") == Some("yes"))
            .map(|n| (n.attribute("name").unwrap_or(""), n.attribute("exportname").unwrap_or("")))
            .collect();
        let mut names = exports.iter().map(|(disk, export)| checkpoint_of(export, disk));
        if let Some(Some(first)) = names.next()
            && names.all(|name| name.as_ref() == Some(&first))
        {
            return Self::Ours(first);
        }
        let mode = job.attribute("mode").unwrap_or("push");
        let disks: Vec<_> = exports.iter().map(|(disk, _)| *disk).collect();
        let server = document.descendants().find(|n| n.has_tag_name("server"));
        let place = server.and_then(|s| s.attribute("socket")).map(|s| format!(", served on {s}")).unwrap_or_default();
        Self::Foreign(format!("a {mode} backup job of another program (disks {}{place})", disks.join(", ")))
    }
}

/// The name of the export of a disk; it marks the job as ours.
pub(crate) fn export_name(checkpoint: &CheckpointName, disk: &DiskName) -> String {
    format!("{checkpoint}.{disk}")
}

fn checkpoint_of(export: &str, disk: &str) -> Option<CheckpointName> {
    export.strip_suffix(disk)?.strip_suffix('.')?.parse().ok()
}

/// The backup job that runs now.
pub(crate) fn running(domain: &Domain) -> Result<Option<RunningJob>, Error> {
    match raw::backup_xml(domain) {
        Ok(xml) => Ok(Some(RunningJob::parse(&xml))),
        Err(error) if error.code() == ErrorNumber::NoDomainBackup => Ok(None),
        // A domain that is off runs no job.
        Err(error) if error.code() == ErrorNumber::OperationInvalid => Ok(None),
        Err(error) => Err(error),
    }
}

/// What became of the wish to end a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobEnd {
    /// It does not run (any more).
    Ended,
    /// It was told to end but still runs.
    StillRuns,
}

/// Ends the job of that checkpoint if it runs, and waits until it has ended. Others' jobs stay untouched.
pub(crate) fn end(domain: &Domain, checkpoint: &CheckpointName) -> Result<JobEnd, Error> {
    let ours = RunningJob::Ours(checkpoint.clone());
    if running(domain)?.as_ref() != Some(&ours) {
        return Ok(JobEnd::Ended);
    }
    match raw::abort_job(domain) {
        // It ended between the two calls.
        Err(error) if error.code() == ErrorNumber::OperationInvalid => {}
        result => result?,
    }
    let start = Instant::now();
    while running(domain)?.as_ref() == Some(&ours) {
        if start.elapsed() > JOB_END {
            return Ok(JobEnd::StillRuns);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(JobEnd::Ended)
}

/// Ends one of our jobs, as [`end`] does, in the words of a run.
pub(crate) async fn end_ours(domain: &DomainHandle, checkpoint: &CheckpointName) -> remora_core::Result<()> {
    let name = checkpoint.clone();
    match domain.call(USUAL, Repeat::Safe, move |domain| end(domain, &name)).await {
        Ok(JobEnd::Ended) => Ok(()),
        Ok(JobEnd::StillRuns) => Err(remora_core::Error::new(
            ErrorKind::Unavailable,
            format!("the backup job of checkpoint {checkpoint} does not end"),
        )
        .advise("Look at `virsh domjobinfo`; `virsh domjobabort` ends it by hand.")),
        Err(error) => Err(error.while_doing(format_args!("ending the backup job of checkpoint {checkpoint}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "remora-000102030405060708090a0b0c0d0e0f-101112131415161718191a1b1c1d1e1f";

    fn job(exports: &[(&str, &str)]) -> RunningJob {
        let disks =
            exports.iter().map(|(disk, export)| format!("<disk name='{disk}' backup='yes' exportname='{export}'/>"));
        let disks = disks.collect::<Vec<_>>().concat();
        let xml = "<domainbackup mode='pull'><server transport='unix' socket='/s'/><disks>";
        RunningJob::parse(&format!("{xml}{disks}<disk name='z' backup='no'/></disks></domainbackup>"))
    }

    #[test]
    fn a_job_is_ours_only_if_every_export_says_so() {
        let checkpoint: CheckpointName = OURS.parse().unwrap();
        let (vda, vdb) = (format!("{OURS}.vda"), format!("{OURS}.vdb"));
        assert_eq!(job(&[("vda", &vda), ("vdb", &vdb)]), RunningJob::Ours(checkpoint));
        for foreign in [
            job(&[]),
            job(&[("vda", "vda")]),
            job(&[("vda", &vda), ("vdb", "vdb")]),
            job(&[("vda", &vda), ("vdb", &vda)]),
            job(&[("vda", OURS)]),
        ] {
            assert!(matches!(foreign, RunningJob::Foreign(_)), "{foreign:?}");
        }
    }

    #[test]
    fn a_foreign_job_is_described() {
        let text = job(&[("vda", "sda")]).to_string();
        assert!(text.contains("pull") && text.contains("vda") && text.contains("/s"), "{text}");
        for nonsense in ["", "<a", "<domainbackup/>"] {
            assert!(matches!(RunningJob::parse(nonsense), RunningJob::Foreign(_)));
        }
    }
}
