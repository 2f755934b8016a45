//! Builds the XML of a backup job and of its checkpoint.

use std::fmt::Write;
use std::path::Path;

use remora_core::{CheckpointName, DiskName};

use crate::job::export_name;

/// A pull-mode backup job.
#[derive(Debug)]
pub(crate) struct BackupJob<'a> {
    /// Names the job's exports and the new checkpoint.
    pub(crate) checkpoint: &'a CheckpointName,
    /// The unix socket that QEMU serves the disks on.
    pub(crate) socket: &'a Path,
    /// The chosen disks.
    pub(crate) disks: Vec<JobDisk<'a>>,
    /// The target names of all other drives.
    pub(crate) others: Vec<&'a str>,
}

/// A chosen disk of a job.
#[derive(Debug)]
pub(crate) struct JobDisk<'a> {
    pub(crate) name: &'a DiskName,
    /// The checkpoint that an increment starts from.
    pub(crate) since: Option<&'a CheckpointName>,
    /// The file in which QEMU keeps the old bytes of what the guest overwrites meanwhile.
    pub(crate) scratch: &'a Path,
    /// Whether its image can hold the new checkpoint.
    pub(crate) checkpointed: Checkpointed,
}

/// Whether a disk takes part in the new checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpointed {
    Yes,
    No,
}

impl BackupJob<'_> {
    /// For the first text of `virDomainBackupBegin`.
    pub(crate) fn backup(&self) -> String {
        let mut xml = String::from("<domainbackup mode='pull'>");
        write_to(&mut xml, format_args!("<server transport='unix' socket='{}'/><disks>", path_text(self.socket)));
        for disk in &self.disks {
            write_to(&mut xml, format_args!("<disk name='{}' backup='yes' type='file'", text(disk.name.as_str())));
            let export = export_name(self.checkpoint, disk.name);
            write_to(&mut xml, format_args!(" exportname='{}'", text(&export)));
            match disk.since {
                Some(since) => write_to(
                    &mut xml,
                    format_args!(
                        " backupmode='incremental' incremental='{}' exportbitmap='{}'",
                        text(since.as_str()),
                        text(self.checkpoint.as_str())
                    ),
                ),
                None => xml.push_str(" backupmode='full'"),
            }
            write_to(
                &mut xml,
                format_args!("><driver type='qcow2'/><scratch file='{}'/></disk>", path_text(disk.scratch)),
            );
        }
        for other in &self.others {
            write_to(&mut xml, format_args!("<disk name='{}' backup='no'/>", text(other)));
        }
        xml.push_str("</disks></domainbackup>");
        xml
    }

    /// For its second text; nothing if no disk can hold a checkpoint.
    pub(crate) fn checkpoint(&self) -> Option<String> {
        if self.disks.iter().all(|d| d.checkpointed == Checkpointed::No) {
            return None;
        }
        let name = text(self.checkpoint.as_str());
        let mut xml = format!("<domaincheckpoint><name>{name}</name><disks>");
        for disk in &self.disks {
            let how = match disk.checkpointed {
                Checkpointed::Yes => format!("bitmap' bitmap='{name}"),
                Checkpointed::No => "no".to_owned(),
            };
            write_to(&mut xml, format_args!("<disk name='{}' checkpoint='{how}'/>", text(disk.name.as_str())));
        }
        for other in &self.others {
            write_to(&mut xml, format_args!("<disk name='{}' checkpoint='no'/>", text(other)));
        }
        xml.push_str("</disks></domaincheckpoint>");
        Some(xml)
    }
}

fn write_to(xml: &mut String, arguments: std::fmt::Arguments<'_>) {
    xml.write_fmt(arguments).expect("writing to a String cannot fail");
}

fn path_text(path: &Path) -> String {
    text(&path.to_string_lossy())
}

/// Text for an attribute or an element. White space becomes references, for an attribute's is normalised otherwise.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\r' | '\t' => write_to(&mut out, format_args!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use remora_core::RepositoryId;
    use roxmltree::Document;

    use super::*;
    use crate::job::RunningJob;

    fn name(n: u8) -> CheckpointName {
        format!("remora-{}-{}", "ab".repeat(16), format!("{n:02x}").repeat(16)).parse().unwrap()
    }

    fn disk(name: &str) -> DiskName {
        DiskName::new(name).unwrap()
    }

    #[test]
    fn a_hostile_path_arrives_as_it_is() {
        let (checkpoint, vda) = (name(1), disk("vda"));
        let hostile = Path::new("/im ages/ü'\"<&>\n\t/x]]>");
        let job = BackupJob {
            checkpoint: &checkpoint,
            socket: hostile,
            disks: vec![JobDisk { name: &vda, since: None, scratch: hostile, checkpointed: Checkpointed::Yes }],
            others: vec!["hd'a"],
        };
        let backup = job.backup();
        let document = Document::parse(&backup).unwrap();
        let find = |tag| document.descendants().find(|n| n.has_tag_name(tag)).unwrap();
        assert_eq!(find("server").attribute("socket"), hostile.to_str());
        assert_eq!(find("scratch").attribute("file"), hostile.to_str());
        assert!(document.descendants().any(|n| n.attribute("name") == Some("hd'a")));
    }

    #[test]
    fn an_increment_names_its_base_and_a_full_disk_none() {
        let (new, old, vda, vdb) = (name(2), name(1), disk("vda"), disk("vdb"));
        let job = BackupJob {
            checkpoint: &new,
            socket: Path::new("/s"),
            disks: vec![
                JobDisk { name: &vda, since: Some(&old), scratch: Path::new("/a"), checkpointed: Checkpointed::Yes },
                JobDisk { name: &vdb, since: None, scratch: Path::new("/b"), checkpointed: Checkpointed::No },
            ],
            others: vec!["sda"],
        };
        let backup = job.backup();
        let document = Document::parse(&backup).unwrap();
        let disks: Vec<_> = document.descendants().filter(|n| n.has_tag_name("disk")).collect();
        assert_eq!(disks[0].attribute("incremental"), Some(old.as_str()));
        assert_eq!(disks[0].attribute("exportbitmap"), Some(new.as_str()));
        assert_eq!(disks[1].attribute("backupmode"), Some("full"));
        assert_eq!(disks[1].attribute("incremental"), None);
        assert_eq!((disks[2].attribute("name"), disks[2].attribute("backup")), (Some("sda"), Some("no")));

        let checkpoint = job.checkpoint().unwrap();
        let document = Document::parse(&checkpoint).unwrap();
        let how: Vec<_> = document.descendants().filter_map(|n| n.attribute("checkpoint")).collect();
        assert_eq!(how, ["bitmap", "no", "no"]);
        assert!(document.descendants().any(|n| n.has_tag_name("name") && n.text() == Some(new.as_str())));
    }

    #[test]
    fn without_a_disk_that_can_hold_it_there_is_no_checkpoint() {
        let (checkpoint, vdb) = (name(1), disk("vdb"));
        let disks = vec![JobDisk { name: &vdb, since: None, scratch: Path::new("/b"), checkpointed: Checkpointed::No }];
        let job = BackupJob { checkpoint: &checkpoint, socket: Path::new("/s"), disks, others: Vec::new() };
        assert_eq!(job.checkpoint(), None);
    }

    #[test]
    fn our_own_job_is_known_again() {
        let (checkpoint, vda) = (CheckpointName::random(RepositoryId::random()), disk("vda"));
        let disks =
            vec![JobDisk { name: &vda, since: None, scratch: Path::new("/a"), checkpointed: Checkpointed::Yes }];
        let job = BackupJob { checkpoint: &checkpoint, socket: Path::new("/s"), disks, others: vec!["vdb"] };
        assert_eq!(RunningJob::parse(&job.backup()), RunningJob::Ours(checkpoint));
    }
}
