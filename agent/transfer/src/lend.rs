//! A worker that lets an agent read.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use remora_holes::{data_from, hole_from};

use crate::explain::explained;
use crate::frame::Fault;
use crate::question::{Look, Question, Reply, STRETCHES, Stretch};
use crate::server::{Stream, say};
use crate::target::IMAGE;

/// A disk that is open.
struct Disk {
    file: File,
    /// What it was when it was looked at last.
    size: u64,
}

/// Answers one agent until it has left.
pub(crate) fn serve(disks: &[PathBuf], stream: &mut Stream) -> io::Result<()> {
    let mut open = BTreeMap::new();
    while let Some(question) = Question::read(stream)? {
        let reply = reply(disks, &mut open, question).unwrap_or_else(|why| {
            tracing::error!(?question, "{why}");
            Reply::Refused(Fault::Failed, why)
        });
        say(stream, &reply.encode())?;
    }
    Ok(())
}

fn reply(disks: &[PathBuf], open: &mut BTreeMap<u32, Disk>, question: Question) -> Result<Reply, String> {
    let (Question::Look { disk: number } | Question::Map { disk: number, .. } | Question::Read { disk: number, .. }) =
        question;
    let path = disks.get(number as usize).ok_or_else(|| format!("there is no disk number {number} here"))?;
    let failed = |error: io::Error| explained(path, &error);
    if let Question::Look { .. } = question {
        let (disk, look) = look(path).map_err(failed)?;
        tracing::info!(number, ?look, "a disk is looked at");
        open.insert(number, disk);
        return Ok(Reply::Is(look));
    }
    let disk = open.get(&number).ok_or_else(|| format!("disk number {number} was not looked at"))?;
    match question {
        Question::Map { from, .. } => disk.map(from).map(Reply::Map).map_err(failed),
        Question::Read { at, length, .. } => {
            disk.read(at, length).map(|bytes| Reply::Bytes(bytes.into())).map_err(failed)
        }
        Question::Look { .. } => Err("it was looked at".into()),
    }
}

fn look(path: &Path) -> io::Result<(Disk, Look)> {
    let is_folder = path.metadata()?.is_dir();
    let image = if is_folder { path.join(IMAGE) } else { path.to_owned() };
    // Not through a link that lies there, nor into a pipe.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&image)?;
    let is = file.metadata()?;
    let look = match is_folder {
        true if is.is_file() => Look { size: is.len(), written: (is.ctime(), is.ctime_nsec()) },
        false if is.file_type().is_block_device() => Look { size: file.seek(SeekFrom::End(0))?, written: (0, 0) },
        _ => return Err(io::Error::other("it is neither a folder with an image nor a block device")),
    };
    Ok((Disk { file, size: look.size }, look))
}

impl Disk {
    /// As many stretches as one reply has, or up to the end.
    fn map(&self, from: u64) -> io::Result<Vec<Stretch>> {
        if from >= self.size {
            return Err(io::Error::other(format!("byte {from} is beyond its {} bytes", self.size)));
        }
        let (mut stretches, mut at) = (Vec::new(), from);
        while at < self.size && stretches.len() + 2 <= STRETCHES {
            let begin = data_from(&self.file, at, self.size)?.unwrap_or(self.size);
            if begin > at {
                stretches.push(Stretch { end: begin, data: false });
            }
            at = begin;
            if at < self.size {
                at = hole_from(&self.file, at, self.size)?;
                stretches.push(Stretch { end: at, data: true });
            }
        }
        Ok(stretches)
    }

    fn read(&self, at: u64, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}
