//! Somebody else's backup job.

use std::time::Duration;

use remora_tests::{DiskSpec, Domain, Lab, MIB};
use serde_json::Value;

use super::{CONSISTENT, FIRST, Protected, taken};

/// Starts a job as another program would.
fn begin_job(domain: &Domain<'_>) {
    let [job, socket, scratch] = ["job.xml", "f.sock", "f"].map(|name| domain.dir().join(name));
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file'><driver type='qcow2'/><scratch file='{}'/></disk></disks></domainbackup>",
        socket.display(),
        scratch.display()
    );
    std::fs::write(&job, xml).unwrap();
    domain.virsh("backup-begin", &[job.to_str().unwrap()]);
}

#[test]
fn another_job_is_busy_or_waited_for_and_never_touched() {
    let vm = Protected::new(Lab::shared().domain("cli busy").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused());
    vm.domain.write("vda", 0x11, 0, 4 * MIB);
    let full = vm.backup(&[("vda", "full", FIRST)]);
    begin_job(&vm.domain);
    let runs = || vm.domain.try_virsh("backup-dumpxml", &[]).status.success();

    let ran = vm.remora.fails(["backup", vm.domain.name(), "-o", "json"], 8, "");
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "busy");
    let message = super::text(&error["error"]["message"]);
    assert!(
        message.contains("a pull backup job of another program (disks vda") && message.contains("cli busy"),
        "{message}"
    );
    // What is told once libvirt has waited for its lock, during 30 s, are its own words.
    assert!(!ran.stderr.contains("state change lock"), "{message}");
    assert!(super::text(&error["error"]["advice"]).contains("--wait"), "{error}");
    vm.remora.fails(["backup", vm.domain.name(), "--wait=300ms"], 8, "another program");
    assert!(runs(), "the foreign job goes on");

    vm.domain.write("vda", 0x22, MIB, MIB);
    let truth = vm.domain.truth("vda");
    let waiting = vm.remora.spawn(["backup", vm.domain.name(), "--wait=10m", "--quiesce=never", "-o", "json"]);
    // It is waiting once it holds the VM's lock, which another run of ours is told.
    remora_tests::wait_until("remora does not wait", Duration::from_mins(5), || {
        vm.remora.run(["backup", vm.domain.name()]).stderr.contains("another run of remora")
    });
    assert!(runs(), "the foreign job goes on");
    vm.domain.virsh("domjobabort", &[]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = serde_json::from_slice(&output.stdout).unwrap();
    let increment = taken(&vm.domain, &vm.remora, report, vec![("vda".into(), truth)]);
    super::check(&increment, &vm.domain, &[("vda", "incremental", CONSISTENT)]);
    vm.assert_restores(&full);
    vm.assert_restores(&increment);
}
