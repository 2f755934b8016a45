//! A process is told from all others by the kernel's random id of this boot, the namespaces in which its id and its start were
//! counted, that id, and when it started. Of a process of another boot or namespace nothing is known: a host's own id does not
//! tell that it is the same one, for hosts are cloned.

use std::fs;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

static THIS: LazyLock<Option<Process>> = LazyLock::new(|| Process::of("self"));

/// A process of some host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's id of its boot.
    pub boot: String,
    /// Where processes and time are counted.
    pub namespaces: String,
    /// Its id there.
    pub id: i32,
    /// Clock ticks from the boot to its start.
    pub started: u64,
}

impl Process {
    /// This one; none if the kernel does not tell all of it.
    pub fn this() -> Option<Self> {
        THIS.clone().filter(|process| u32::try_from(process.id) == Ok(std::process::id()))
    }

    /// The process that `/proc` names so, taken to be in this one's namespaces.
    pub fn of(name: &str) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let namespace = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).ok();
        // A kernel without namespaces of time has one time.
        let time = namespace("time").unwrap_or_default();
        let namespaces = format!("{} {}", namespace("pid")?.display(), time.display());
        let (id, started) = stat(name)?;
        Some(Self { boot, namespaces, id, started })
    }

    /// Whether it is certain that it runs no more. In doubt it does.
    pub fn is_gone(&self) -> bool {
        let same_host = Self::this()
            .is_some_and(|this| (this.boot, this.namespaces) == (self.boot.clone(), self.namespaces.clone()));
        if !same_host {
            return false;
        }
        // Also where /proc hides others' processes.
        if kill(Pid::from_raw(self.id), None) == Err(Errno::ESRCH) {
            return true;
        }
        stat(&self.id.to_string()).is_some_and(|(id, started)| id == self.id && started != self.started)
    }
}

/// A process's id and start, from proc(5)'s `stat`: the first field, and the 22nd. The second one may hold anything.
fn stat(name: &str) -> Option<(i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
    let (head, rest) = text.rsplit_once(')')?;
    let id = head.split_once(' ')?.0.parse().ok()?;
    Some((id, rest.split_whitespace().nth(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn child() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn a_process_is_gone_once_it_is_killed_and_not_before() {
        let mut child = child();
        let process = Process::of(&child.id().to_string()).unwrap();
        assert!(!process.is_gone() && !Process::this().unwrap().is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn another_process_of_the_same_id_is_not_it() {
        let this = Process::this().unwrap();
        assert!(Process { started: this.started + 1, ..this }.is_gone());
    }

    #[test]
    fn of_other_hosts_and_containers_nothing_is_known() {
        let mut child = child();
        let process = Process::of(&child.id().to_string()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
        assert!(!Process { boot: "another".into(), ..process.clone() }.is_gone());
        assert!(!Process { namespaces: "pid:[1] time:[1]".into(), ..process }.is_gone());
    }
}
