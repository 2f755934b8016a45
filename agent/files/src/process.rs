//! Children that die with us, with all that they start.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(50);

/// A child in a process group of its own, so that Ctrl-C on our terminal reaches us and not it, and everything that it
/// starts can be found and ended. The kernel kills the child when this process dies, however it dies.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    exited: watch::Receiver<Option<String>>,
}

impl Group {
    /// Starts `command` as the leader of a new group.
    pub(crate) async fn spawn(command: Command) -> io::Result<Self> {
        let (started, answer) = oneshot::channel();
        // The parent-death signal comes when the *thread* that started the child ends, so the child gets a thread that
        // lives as long as it does.
        std::thread::Builder::new().name("appliance".into()).spawn(move || own(command, started))?;
        answer.await.map_err(|_| io::Error::other("the starting thread ended"))?
    }

    /// The child itself.
    pub(crate) const fn leader(&self) -> Pid {
        self.leader
    }

    /// How the leader ended, if it did.
    pub(crate) fn exit(&self) -> Option<String> {
        self.exited.borrow().clone()
    }

    /// Waits up to `patience` until no process of the group is left; says whether that is so.
    pub(crate) async fn gone_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !members(self.leader).is_empty() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// Ends all processes of the group: by themselves within `patience`, asked to, or killed.
    pub(crate) async fn end(&self, patience: Duration) -> bool {
        if self.gone_within(patience).await {
            return true;
        }
        self.signal(Signal::SIGTERM);
        if self.gone_within(Duration::from_secs(3)).await {
            return true;
        }
        self.signal(Signal::SIGKILL);
        // They need a processor once more to die.
        self.gone_within(Duration::from_secs(30)).await
    }

    /// Signals those of the group that still run. A group's id is not given out again while one of them does.
    pub(crate) fn signal(&self, signal: Signal) {
        if !members(self.leader).is_empty() {
            let _ = killpg(self.leader, signal);
        }
    }
}

/// Whoever forgets a group does not leave it running.
impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn own(mut command: Command, started: oneshot::Sender<io::Result<Group>>) {
    command.process_group(0);
    parent_death::kill_with_us(&mut command);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // The child has its own copies of our ends of the pipes.
    drop(command);
    let (exit, exited) = watch::channel(None);
    // If whoever wanted it has gone meanwhile, it is forgotten here.
    let _ = started.send(Ok(Group { leader: Pid::from_raw(child.id().cast_signed()), exited }));
    let how = child.wait().map_or_else(|e| e.to_string(), |status: ExitStatus| status.to_string());
    exit.send_replace(Some(how));
}

/// The processes of a group that are not dead already. What was a grandchild may stay a zombie for as long as the
/// machine's first process does not care, so zombies do not count.
fn members(group: Pid) -> Vec<Pid> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| alive(*pid).is_some_and(|its| its == group)).collect()
}

/// The group of a process that runs.
fn alive(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state parent group …`, where the name may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (state != "Z" && state != "X").then(|| Pid::from_raw(group))
}

/// Whether a process runs.
pub(crate) fn runs(pid: Pid) -> bool {
    alive(pid).is_some()
}

mod parent_death {
    //! The one call that must be made between fork and exec.
    #![allow(unsafe_code)]

    use std::io;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use nix::sys::prctl::set_pdeathsig;
    use nix::sys::signal::Signal;
    use nix::unistd::{getpid, getppid};

    /// Has the kernel kill the child when the thread that starts it ends.
    pub(super) fn kill_with_us(command: &mut Command) {
        let parent = getpid();
        let before_exec = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the call.
            if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
        };
        // SAFETY: the closure makes two system calls and allocates nothing, so it may run between fork and exec of a
        // process with threads.
        unsafe { command.pre_exec(before_exec) };
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::task::Poll;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn everything_in_the_group_ends_though_it_ignores_the_polite_signal() {
        let group = Group::spawn(shell("trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1000")).await.unwrap();
        while members(group.leader).len() < 3 {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(group.end(Duration::ZERO).await);
        assert!(members(group.leader).is_empty());
        // It is noted by the thread that waits for the leader, which may come after this one.
        let deadline = Instant::now() + Duration::from_mins(5);
        while group.exit().is_none() {
            assert!(Instant::now() < deadline, "its exit is not noted");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_forgotten_group_is_killed() {
        let group = Group::spawn(shell("sleep 1000 & sleep 1000")).await.unwrap();
        let leader = group.leader;
        assert!(!members(leader).is_empty());
        drop(group);
        let deadline = Instant::now() + Duration::from_mins(5);
        while !members(leader).is_empty() {
            assert!(Instant::now() < deadline, "{:?} still run", members(leader));
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_when_it_has_started_is_killed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut command = Command::new("sleep");
        command.arg("infinity").stdout(writer);
        let mut spawning = Box::pin(Group::spawn(command));
        // Once: it is being started, or was.
        drop(poll_fn(|context| Poll::Ready(spawning.as_mut().poll(context))).await);
        drop(spawning);
        // The pipe ends with the last process that has it.
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let error = Group::spawn(Command::new("/nonexistent/program")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
