//! Which process is it.

use std::path::Path;

/// Where the kernel tells of processes.
pub(crate) const PROC: &str = "/proc";

/// Names a process for ever: process numbers come again, also after a boot. `proc` is where procfs is mounted.
pub(crate) fn instance(proc: &Path, pid: u32) -> Option<String> {
    if pid == 0 {
        // Of a process namespace that is not ours.
        return None;
    }
    let boot = std::fs::read_to_string(Path::new(PROC).join("sys/kernel/random/boot_id")).ok()?;
    let status = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // Field 22, and the second field, the name in parentheses, may hold anything.
    let start = status.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("boot {} process {pid} started at {start}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_one_process() {
        let instance = |pid| instance(Path::new(PROC), pid);
        let own = instance(std::process::id()).unwrap();
        assert_eq!(Some(own.clone()), instance(std::process::id()));
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert_ne!(Some(own), instance(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(instance(0), None);
        assert_eq!(instance(u32::MAX), None);
    }
}
