//! Drives one `guestfish` process, libguestfs's shell: commands in through a pipe, answers out through another.
//!
//! `guestmount` mounts onto folders that exist in the guest only; `guestfish` can make folders for all filesystems
//! before it serves them, in the same process and so in one appliance.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use remora_core::{Error, ErrorKind, LineageId, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::process::Group;

/// An answer longer than this is hostile (a made-up fstab, say) and is cut.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;
const ERROR_MARK: &str = "libguestfs: error: ";

/// A running guestfish.
#[derive(Debug)]
pub(crate) struct Guestfish {
    pub(crate) group: Group,
    /// None once it was told to end.
    commands: Option<pipe::Sender>,
    answers: Answers,
    /// libguestfs's folder for its socket, which it makes in /tmp and leaves there when it is killed.
    sockets: Option<PathBuf>,
    /// Printed after each command; random, so that no file's content can be taken for it.
    mark: String,
}

/// Who reads what it prints.
#[derive(Debug)]
enum Answers {
    /// We do, command by command.
    Ours(BufReader<pipe::Receiver>),
    /// A task throws it away, so that it never waits for a reader.
    Dropped(JoinHandle<()>),
}

/// How to start one.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// The raw images in the appliance's order: the first becomes `/dev/sda`.
    pub(crate) images: &'a [PathBuf],
    /// The folder to run in.
    pub(crate) folder: &'a Path,
    /// For the appliance's temporary files.
    pub(crate) scratch: &'a Path,
    /// Where libguestfs keeps the appliance that it builds once; its own default if none.
    pub(crate) cache: Option<&'a Path>,
    /// Whether to keep QEMU from trying hardware virtualisation.
    pub(crate) emulate: bool,
}

/// What a command printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Everything but errors.
    pub(crate) text: String,
    /// The errors, joined.
    pub(crate) error: Option<String>,
}

impl Guestfish {
    /// Starts guestfish with the images attached read-only: what the guest's filesystems write when they are mounted
    /// goes to overlays that are thrown away.
    pub(crate) async fn start(start: &Start<'_>) -> Result<Self> {
        let failed = |source| {
            let error = Error::io("starting guestfish", source);
            error.advise("Install libguestfs (package libguestfs-tools), or mount the disks only.")
        };
        let (answers, output) = std::io::pipe().map_err(failed)?;
        let (input, commands) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new("guestfish");
        command.args(["--ro", "--format=raw"]);
        for image in start.images {
            command.arg("-a").arg(image);
        }
        command.current_dir(start.folder).stdin(input).stderr(output.try_clone().map_err(failed)?).stdout(output);
        environment(&mut command, start);
        let group = Group::spawn(command).await.map_err(failed)?;
        let commands = pipe::Sender::from_owned_fd(commands.into()).map_err(failed)?;
        let answers = pipe::Receiver::from_owned_fd(answers.into()).map_err(failed)?;
        let mark = format!("remora-{}", LineageId::random());
        Ok(Self {
            group,
            commands: Some(commands),
            answers: Answers::Ours(BufReader::new(answers)),
            sockets: None,
            mark,
        })
    }

    /// Runs one command.
    pub(crate) async fn run(&mut self, command: &str, patience: Duration) -> Result<Answer> {
        Ok(self.run_all(&[command.to_owned()], patience).await?.pop().unwrap_or_default())
    }

    /// Runs commands one after the other, whether or not the earlier ones fail, without a round trip between them.
    pub(crate) async fn run_all(&mut self, commands: &[String], patience: Duration) -> Result<Vec<Answer>> {
        match timeout(patience, self.exchange(commands)).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(source)) => Err(self.broken(source)),
            Err(_) => {
                let what = format!("libguestfs did not answer for {} s", patience.as_secs());
                Err(Error::new(ErrorKind::Unavailable, what))
            }
        }
    }

    /// Sends the last command, which does not end by itself.
    pub(crate) async fn run_last(&mut self, command: &str) -> Result<()> {
        let Some(commands) = &mut self.commands else { return Err(self.broken(ended())) };
        let sent = commands.write_all(format!("{command}\n").as_bytes()).await;
        sent.map_err(|source| self.broken(source))?;
        self.drop_answers();
        Ok(())
    }

    /// Waits until all processes are gone, with nothing more to read for them; kills what does not go.
    pub(crate) async fn end(&mut self, patience: Duration) -> bool {
        self.find_sockets();
        self.commands = None;
        self.drop_answers();
        let gone = self.group.end(patience).await;
        self.remove_sockets();
        gone
    }

    /// Looks for libguestfs's folder, which is there once the appliance boots.
    pub(crate) fn find_sockets(&mut self) {
        if self.sockets.is_none() {
            self.sockets = socket_folder(self.group.leader());
        }
    }

    /// That folder, if it was found.
    pub(crate) fn sockets(&self) -> Option<&Path> {
        self.sockets.as_deref()
    }

    fn remove_sockets(&self) {
        if let Some(folder) = &self.sockets {
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn drop_answers(&mut self) {
        let nothing = tokio::spawn(std::future::ready(()));
        self.answers = match std::mem::replace(&mut self.answers, Answers::Dropped(nothing)) {
            Answers::Ours(mut answers) => Answers::Dropped(tokio::spawn(async move {
                let _ = tokio::io::copy(&mut answers, &mut tokio::io::sink()).await;
            })),
            dropped @ Answers::Dropped(_) => dropped,
        };
    }

    async fn exchange(&mut self, commands: &[String]) -> std::io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(commands.len());
        // Few at a time: neither pipe may fill up while the other waits.
        for some in commands.chunks(32) {
            let mut text = String::new();
            for command in some {
                // A leading minus: go on after an error. `echo` is guestfish's own and prints in order with the rest.
                let _ = writeln!(text, "-{command}\necho {}", self.mark);
            }
            self.commands.as_mut().ok_or_else(ended)?.write_all(text.as_bytes()).await?;
            for _ in some {
                answers.push(self.answer().await?);
            }
        }
        Ok(answers)
    }

    async fn answer(&mut self) -> std::io::Result<Answer> {
        let Answers::Ours(answers) = &mut self.answers else { return Err(ended()) };
        let (mut answer, mut line) = (Answer::default(), Vec::new());
        loop {
            line.clear();
            if answers.read_until(b'\n', &mut line).await? == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, answer.summary()));
            }
            let text = String::from_utf8_lossy(&line);
            // A file need not end with a newline, so the mark may stand behind its last words.
            if let Some(rest) = text.trim_end().strip_suffix(&self.mark) {
                answer.add(rest);
                return Ok(answer);
            }
            answer.add(&text);
        }
    }

    fn broken(&self, source: std::io::Error) -> Error {
        let how = self.group.exit().map_or_else(String::new, |how| format!(" ({how})"));
        Error::new(ErrorKind::Unavailable, format!("libguestfs ended before it was told to{how}")).because(source)
    }
}

impl Drop for Guestfish {
    fn drop(&mut self) {
        if let Answers::Dropped(task) = &self.answers {
            task.abort();
        }
        self.find_sockets();
        self.group.signal(Signal::SIGKILL);
        self.remove_sockets();
    }
}

/// The folder of the sockets that a libguestfs process has: the kernel lists which socket has which path.
fn socket_folder(process: Pid) -> Option<PathBuf> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    let links = open.filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok());
    let sockets: Vec<String> =
        links.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    // `address: references protocol flags type state inode path`
    let list = fs::read_to_string("/proc/net/unix").ok()?;
    let mut paths = list.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(6);
        let (inode, path) = (fields.next()?, fields.next()?);
        sockets.iter().any(|socket| socket == inode).then(|| Path::new(path).parent())?
    });
    let ours = |folder: &&Path| folder.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"libguestfs"));
    paths.find(ours).map(Path::to_owned)
}

fn ended() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::BrokenPipe, "it was told to end")
}

impl Answer {
    fn add(&mut self, line: &str) {
        if let Some((_, error)) = line.split_once(ERROR_MARK) {
            let all = self.error.get_or_insert_default();
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(error.trim_end());
        } else if self.text.len() + line.len() <= LONGEST_ANSWER {
            self.text.push_str(line);
        }
    }

    /// What it says, in one line.
    fn summary(self) -> String {
        let text = self.error.unwrap_or(self.text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn environment(command: &mut Command, start: &Start<'_>) {
    command.env("LC_ALL", "C").env("TMPDIR", start.scratch).env_remove("LIBGUESTFS_TMPDIR");
    // For sockets; but as root, libguestfs puts them in /tmp whatever it is told.
    command.env("XDG_RUNTIME_DIR", start.scratch);
    // Hooks and defaults of a person's shell are not for us.
    for variable in ["GUESTFISH_INIT", "GUESTFISH_PS1", "GUESTFISH_OUTPUT", "LIBGUESTFS_DEBUG", "LIBGUESTFS_TRACE"] {
        command.env_remove(variable);
    }
    if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
        command.env("LIBGUESTFS_BACKEND", "direct");
    }
    if start.emulate {
        command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    }
    // Without it libguestfs would follow our TMPDIR, and build its appliance anew for each mount: 8 to 14 s.
    if let Some(cache) = start.cache {
        command.env("LIBGUESTFS_CACHEDIR", cache);
    } else if std::env::var_os("LIBGUESTFS_CACHEDIR").is_none() {
        command.env("LIBGUESTFS_CACHEDIR", std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into()));
    }
}

/// `text` as one argument of a guestfish command, or none if it cannot be one on a single line.
pub(crate) fn quoted(text: &str) -> Option<String> {
    let safe = text.chars().all(|c| !c.is_control() && !matches!(c, '"' | '\\'));
    safe.then(|| format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_an_argument_or_a_line_is_no_argument() {
        assert_eq!(quoted("/dev/vg 0/ü").unwrap(), "\"/dev/vg 0/ü\"");
        for hostile in ["a\"b", "a\nrun", "a\\", "a\0b", "a\rb"] {
            assert_eq!(quoted(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn errors_are_told_from_text() {
        let mut answer = Answer::default();
        answer.add("one\n");
        answer.add("*stdin*:30: libguestfs: error: vfs_uuid: no such file\n");
        answer.add("libguestfs: error: and more\n");
        assert_eq!(answer.text, "one\n");
        assert_eq!(answer.error.unwrap(), "vfs_uuid: no such file; and more");
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let mut answer = Answer::default();
        for _ in 0..3 * LONGEST_ANSWER / 1000 {
            answer.add(&"x".repeat(1000));
        }
        assert!(answer.text.len() <= LONGEST_ANSWER);
    }
}
