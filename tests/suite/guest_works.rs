//! The guest of the lab does what the other tests believe it to do.

use std::process::Command;

use remora_tests::{Agent, DiskSpec, Domain, Format, Lab, MIB, run};

/// A disk with an ext4 filesystem on it.
fn ext4_disk(target: &str) -> DiskSpec {
    let raw = Lab::shared().scratch("ext4").join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(64 * MIB).unwrap();
    run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&raw)).ok();
    DiskSpec::holding(target, Format::Qcow2, &raw)
}

fn booted(name: &str, agent: Agent) -> Domain<'static> {
    Lab::shared().domain(name).disk(ext4_disk("vda")).booted(agent)
}

#[test]
fn a_guest_writes_freezes_and_shuts_down() {
    let domain = booted("guest", Agent::Works);
    let guest = domain.guest();
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    guest.write_file("/mnt/vda/file", &bytes);
    assert!(guest.read_file("/mnt/vda/file") == bytes, "the guest reads what it wrote");
    assert_eq!(guest.sh("stat -c %s /mnt/vda/file"), "1200000");
    let failed = guest.try_sh("echo out; echo err >&2; exit 7");
    assert_eq!((failed.code, failed.stdout.as_str(), failed.stderr.as_str()), (7, "out", "err"));

    guest.freeze();
    assert!(guest.frozen());
    guest.thaw();
    assert!(!guest.frozen());

    let running = domain.truth("vda");
    assert_eq!(debugfs(&running, "cat /file"), bytes, "a copy of the running guest's disk holds the file");
    domain.shutdown();
    run(Command::new("e2fsck").args(["-fn"]).arg(domain.truth("vda"))).ok();
}

#[test]
fn a_guest_lets_a_disk_go_and_takes_another() {
    let domain = booted("hotplug", Agent::Works);
    domain.attach(&DiskSpec::qcow2("vdb", 256 * MIB));
    domain.attach(&DiskSpec::qcow2("vdc", 256 * MIB));
    let guest = domain.guest();
    let both = "while ! [ -b /dev/vdb -a -b /dev/vdc ]; do usleep 50000; done";
    let lvm =
        "pvcreate -qq /dev/vdb /dev/vdc && vgcreate -qq vg0 /dev/vdb /dev/vdc && lvcreate -qq -n data -L 400M vg0";
    guest.sh(&format!("{both}; {lvm} && mkdosfs /dev/vg0/data"));
    guest.sh("mount-all && echo across two disks >/mnt/vg0-data/file && sync");
    guest.sh("umount /mnt/vg0-data && vgchange -qq -an vg0");
    domain.detach("vdc");
    guest.sh("while [ -b /dev/vdc ]; do usleep 50000; done");
}

#[test]
fn an_agent_may_refuse_to_freeze() {
    let domain = booted("refuses", Agent::RefusesToFreeze);
    assert_eq!(domain.guest().sh("echo answers"), "answers");
    let refused = domain.guest().ask("domfsfreeze", &[]).fails();
    assert!(refused.stderr.contains("disabled"), "{refused:?}");
}

#[test]
fn an_agent_may_hang() {
    let domain = booted("hangs", Agent::Works);
    domain.guest().hang_agent();
    // Its channel is still there, so that libvirt believes in it.
    assert!(domain.virsh("dumpxml", &[]).contains("state='connected'"));
}

#[test]
fn an_agent_may_be_absent() {
    let domain = booted("absent", Agent::Absent);
    let absent = domain.try_virsh("domfsfreeze", &[]).fails();
    assert!(absent.stderr.contains("agent is not configured"), "{absent:?}");
}

fn debugfs(image: &std::path::Path, command: &str) -> Vec<u8> {
    run(Command::new("debugfs").args(["-R", command]).arg(image)).ok().stdout
}
