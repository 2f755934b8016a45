//! A backup that is stopped (SIGSTOP, Ctrl-Z, a debugger) while QEMU serves it: QEMU's drains wait for a client that
//! takes no replies, and with them the monitor and the guest.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::{DiskSpec, Format, KIB, Lab, MIB, wait_until};

use super::held::{ended, noise_disk, reading};
use super::{CONSISTENT, FIRST, Protected};

/// Kills a backup if the test fails: what waits for it goes on then.
struct KilledOnFailure(Pid);

impl Drop for KilledOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            kill(self.0, Signal::SIGKILL).ok();
        }
    }
}

#[test]
fn a_backup_that_is_stopped_is_killed_before_the_guest_is_held_up_for_long() {
    let lab = Lab::shared();
    let disk = DiskSpec::holding("vda", Format::Qcow2, &noise_disk(lab));
    let vm = Protected::new(lab.domain("cli stopped").disk(disk).paused());
    let full = vm.backup(&[("vda", "full", FIRST)]);
    // Each of these drains: a flush of all disks, the start and the pause of the guest, the end of the job itself.
    let drains: [&(dyn Fn() + Sync); 3] = [
        &|| vm.domain.write("vda", 0x22, 150 * MIB, MIB),
        &|| {
            vm.domain.resume();
            vm.domain.pause();
        },
        &|| {
            let ended = vm.domain.try_virsh("domjobabort", &[]);
            // The watchdog may have been quicker, after its 15 s.
            assert!(ended.status.success() || ended.stderr.contains("no job is active"), "{ended:?}");
        },
    ];
    for drain in drains {
        vm.domain.write_all("vda", &[(0x33, 0, 128 * MIB)]);
        // It never comes to its end: minutes in which it can be stopped cost nothing.
        let backup = reading(&vm.domain, &vm.remora, "1MiB");
        let pid = Pid::from_raw(backup.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        assert!(vm.domain.try_virsh("backup-dumpxml", &[]).status.success(), "the backup was over before it stopped");
        std::thread::scope(|scope| {
            let _backup = KilledOnFailure(pid);
            let drained = scope.spawn(drain);
            wait_until("the guest is held up", Duration::from_mins(10), || drained.is_finished());
        });
        let ran = ended(backup);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ran.status), Some(9), "{ran:?}");
        assert!(ran.stderr.contains("was stopped for 15s and could have held up the guest"), "{ran:?}");
        let sockets = super::sockets(&vm.domain);
        wait_until("the watchdog does not clean up", Duration::from_mins(10), || {
            let left = fs::read_dir(&sockets).unwrap().count();
            left == 0 && !vm.domain.try_virsh("backup-dumpxml", &[]).status.success()
        });
        // With nothing in it, it waits for the next run.
        fs::remove_dir(sockets).unwrap();
        vm.assert_nothing_left();
    }
    vm.domain.write("vda", 0x44, MIB, 64 * KIB);
    let next = vm.backup(&[("vda", "incremental", CONSISTENT)]);
    vm.assert_restores(&full);
    vm.assert_restores(&next);
    assert_eq!(vm.checkpoints(), [next.checkpoint("vda")].into(), "those of the killed runs are gone");
}
