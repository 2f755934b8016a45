//! Which disk is it: replaced files, data files below overlays, added, removed and resized disks.

use std::fs;

use remora_tests::{DiskSpec, Domain, Lab, MIB, wait_until};

use super::{Bench, bitmaps, wait_for};
use remora_core::point::DiskIdentity;
use remora_core::ports::DiskSize;

async fn identity(bench: &Bench, domain: &Domain<'_>) -> DiskIdentity {
    bench.claim(domain).await.state().disks[0].identity.clone()
}

#[test]
fn a_file_replaced_under_its_name_is_another_disk_though_its_bitmaps_look_sound() {
    let domain = Lab::shared().domain("replaced").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let full = bench.point(&domain, None).await;
        let before = identity(&bench, &domain).await;
        domain.destroy();
        let image = domain.image("vda").path;
        let copy = image.with_extension("copy");
        fs::copy(&image, &copy).unwrap();
        fs::rename(&copy, &image).unwrap();
        domain.start_paused();
        let after = identity(&bench, &domain).await;
        assert_eq!((&after.vm_uuid, &after.path), (&before.vm_uuid, &before.path));
        assert_ne!(after.inode, before.inode);
        assert_eq!(bitmaps(&*bench.claim(&domain).await, "vda"), (vec![full.checkpoint], vec![]), "the lie");
    });
}

#[test]
fn a_data_file_written_outside_qemu_shows_in_the_instance_only() {
    let domain = Lab::shared().domain("overlay").disk(DiskSpec::overlay("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let instance = async || {
            let claimed = bench.claim(&domain).await;
            let view = super::open_all(&*claimed, &bench.checkpoint()).await.unwrap();
            let instance = view.instance().expect("QEMU runs on this host");
            view.close(remora_core::ports::Outcome::Stored).await.unwrap();
            instance
        };
        let full = bench.point(&domain, None).await;
        full.assert_is("vda", &domain.truth("vda"));
        let (before, process) = (identity(&bench, &domain).await, instance().await);
        let data = domain.image("vda").data.unwrap();
        assert!(before.data_file.as_ref().unwrap().starts_with(data.to_str().unwrap()), "{before:?}");
        assert_eq!(instance().await, process, "the same QEMU");

        domain.destroy();
        let mut bytes = fs::read(&data).unwrap();
        bytes[0] = 0x77;
        fs::write(&data, bytes).unwrap();
        domain.start_paused();
        assert_eq!(identity(&bench, &domain).await, before);
        assert!(bitmaps(&*bench.claim(&domain).await, "vda").0.contains(&full.checkpoint), "the bitmap stays clean");
        assert_ne!(instance().await, process, "another QEMU");

        domain.destroy();
        let copy = data.with_extension("copy");
        fs::copy(&data, &copy).unwrap();
        fs::rename(&copy, &data).unwrap();
        domain.start_paused();
        assert_ne!(identity(&bench, &domain).await.data_file, before.data_file);
    });
}

#[test]
fn a_resized_disk_tells_its_new_size() {
    let domain = Lab::shared().domain("resized").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        bench.point(&domain, None).await;
        domain.write("vda", 0x11, 15 * MIB, MIB);
        domain.resize("vda", 32 * MIB);
        domain.write("vda", 0x22, 31 * MIB, MIB);
        assert_eq!(bench.claim(&domain).await.state().disks[0].size, DiskSize::Exact(32 * MIB));
        let truth = domain.truth("vda");
        let again = bench.point(&domain, None).await;
        assert_eq!(again.disk("vda").bytes.len() as u64, 32 * MIB);
        again.assert_is("vda", &truth);
    });
}

#[test]
fn a_resize_between_claim_and_open_is_an_error() {
    let domain = Lab::shared().domain("resizing").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let claimed = bench.claim(&domain).await;
        domain.resize("vda", 32 * MIB);
        let error = super::open_all(&*claimed, &bench.checkpoint()).await.err().unwrap();
        assert!(error.to_string().contains("resized"), "{}", error.chain());
        bench.assert_nothing_left(&domain);
        assert!(super::checkpoints(&domain).is_empty());
    });
}

#[test]
fn a_disk_added_or_removed_changes_the_list_and_not_the_others_bitmaps() {
    let domain = Lab::shared().domain("grown").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let full = bench.point(&domain, None).await;
        domain.attach(&DiskSpec::qcow2("vdb", 8 * MIB));
        domain.write("vdb", 0x22, MIB, MIB);
        let names = async || {
            let claimed = bench.claim(&domain).await;
            claimed.state().disks.iter().map(|d| d.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names().await, ["vda", "vdb"]);
        let claimed = bench.claim(&domain).await;
        assert_eq!(bitmaps(&*claimed, "vda"), (vec![full.checkpoint.clone()], vec![]));
        assert_eq!(bitmaps(&*claimed, "vdb"), (vec![], vec![]));
        drop(claimed);
        let second = bench.point(&domain, Some(&full)).await;
        second.assert_is("vdb", &domain.truth("vdb"));

        // A paused machine never lets a disk go, so it is removed from the definition.
        domain.destroy();
        domain.virsh("detach-disk", &["vdb", "--config"]);
        domain.start_paused();
        wait_until("the disk is still there", std::time::Duration::from_mins(5), || {
            !domain.virsh("domblklist", &[]).contains("vdb")
        });
        assert_eq!(names().await, ["vda"]);
        let third = bench.point(&domain, Some(&second)).await;
        third.assert_is("vda", &domain.truth("vda"));
    });
}
