//! Mounts that are killed, folders that are in use, and copies of whole trees.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use remora_tests::Layout;
use remora_tests::files::Holes;

use super::*;
use crate::documented::the_documented;

/// A `remora mount` that serves.
pub(crate) struct Serving {
    pub(super) process: Child,
    pub(crate) folder: PathBuf,
}

impl Serving {
    /// Mounts the disks of a point and waits until they are served.
    #[track_caller]
    pub(super) fn disks(remora: &Remora, point: &str, folder: &Path) -> Self {
        Self::start(remora, point, folder, &["--disks-only"])
    }

    /// Mounts a point, with the files of its guest, and waits until all is served.
    #[track_caller]
    pub(crate) fn all(remora: &Remora, point: &str, folder: &Path) -> Self {
        Self::start(remora, point, folder, &[])
    }

    #[track_caller]
    fn start(remora: &Remora, point: &str, folder: &Path, args: &[&str]) -> Self {
        let mut command = remora.command(["mount", point, folder.to_str().unwrap()].iter().chain(args));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { process, folder: folder.to_owned() }
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.folder.join("disks/vda.raw")
    }

    /// Ends it in the usual way, and looks that nothing stays.
    #[track_caller]
    pub(crate) fn end(mut self, how: Signal) {
        signal(&self.process, how);
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{how} is the normal end of a mount");
        assert!(!is_mounted(&self.folder));
    }
}

impl Drop for Serving {
    /// If a test fails, its mount goes.
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        for part in ["disks", "files"] {
            nix::mount::umount2(&self.folder.join(part), nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}

#[test]
fn after_a_kill_the_same_folder_serves_again() {
    let mut protected = Protected::new("mounted", 8 * MIB);
    protected.back_up(&[]);
    let (kept, folder) = (&protected.kept[0], Lab::shared().scratch("mounts").join("new"));
    for how in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut killed = Serving::disks(&protected.remora, &kept.id, &folder);
        assert_same(&killed.disk(), &kept.truth);
        // Somebody in it, as a shell or a backup program would be.
        let user = fs::File::open(killed.disk()).unwrap();
        killed.process.kill().unwrap();
        killed.process.wait().unwrap();
        std::mem::forget(killed);
        let again = Serving::disks(&protected.remora, &kept.id, &folder);
        assert_same(&again.disk(), &kept.truth);
        again.end(how);
        drop(user);
    }
    assert_eq!(list(&folder), [""; 0]);
}

#[test]
fn a_folder_in_use_is_refused_and_left_alone() {
    let mut protected = Protected::new("in use", MIB);
    protected.back_up(&[]);
    let (kept, folder) = (protected.kept[0].clone(), Lab::shared().scratch("in use"));
    let mount = |folder: &Path| {
        let mut mount = protected.remora.spawn(["mount", &kept.id, folder.to_str().unwrap(), "--disks-only"]);
        let mut told = String::new();
        BufReader::new(mount.stdout.as_mut().unwrap()).read_line(&mut told).unwrap();
        // One that serves would do so for ever.
        if !told.is_empty() {
            mount.kill().unwrap();
        }
        assert_eq!(told, "", "it mounts on {}", folder.display());
        let output = mount.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap().trim_end().to_owned();
        Ran { command: "remora mount".into(), status: output.status, stdout: output.stdout, stderr }
    };
    fs::create_dir(folder.join("files")).unwrap();
    fs::write(folder.join("files/precious"), "mine").unwrap();
    assert_refused(&mount(&folder), 4, &["not empty", "files"]);
    assert_eq!(fs::read(folder.join("files/precious")).unwrap(), b"mine");
    assert_refused(&mount(&folder.join("files/precious")), 2, &["precious"]);
    fs::remove_dir_all(folder.join("files")).unwrap();

    let serving = Serving::disks(&protected.remora, &kept.id, &folder);
    assert_refused(&mount(&folder), 8, &["mounted"]);
    assert_same(&serving.disk(), &kept.truth);
    // Nothing can be written into a point.
    assert!(fs::File::options().write(true).open(serving.disk()).is_err());
    assert!(fs::remove_file(serving.disk()).is_err());
    assert!(fs::write(folder.join("disks/new"), "x").is_err());
    serving.end(Signal::SIGTERM);
    assert_eq!(list(&folder), [""; 0], "the folder was there before and stays");
}

#[test]
fn a_mount_killed_while_its_appliance_boots_takes_the_appliance_with_it() {
    let mut protected = Protected::new("boots", MIB);
    protected.back_up(&[]);
    let (kept, folder) = (&protected.kept[0], Lab::shared().scratch("boots"));
    let mut mount = protected.remora.spawn(["mount", &kept.id, folder.to_str().unwrap()]);
    wait_until("the appliance is not started", SOON, || {
        assert!(mount.try_wait().unwrap().is_none(), "it ended");
        !children(pid(&mount)).is_empty()
    });
    let appliance = Process::children(pid(&mount));
    mount.kill().unwrap();
    mount.wait().unwrap();
    wait_until_gone(&appliance);
    let again = Serving::disks(&protected.remora, &kept.id, &folder);
    assert_same(&again.disk(), &kept.truth);
    again.end(Signal::SIGINT);
}

#[test]
fn a_tree_is_copied_with_modes_times_links_and_holes() {
    let lab = Lab::shared();
    let prepared = Layout::Whole.prepare();
    let _domain = lab.domain("tree").disk(DiskSpec::holding("vda", Format::Qcow2, &prepared.disks[0])).paused();
    let temporary = lab.scratch("temporary");
    let remora = Remora::init(lab).with("TMPDIR", &temporary);
    let report = remora.json(["backup", "tree"]);
    let to = lab.scratch("tree").join("copy");
    let from = format!("{}:/vda", report["point"].as_str().unwrap());
    let copied = remora.json(["cp", &from, to.to_str().unwrap()]);
    assert_eq!((&copied["to"], &copied["failed"]), (&to.to_str().unwrap().into(), &Value::Array(Vec::new())));
    the_documented("remora cp POINT:/path DEST").assert_of(&copied);
    let keys: Vec<_> = copied.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["bytes", "failed", "files", "folders", "links", "skipped", "to"]);
    prepared.filesystems[0].assert_at(&to, Holes::MustBeThere);
    assert!(!is_mounted(&temporary), "the mount of the copy is gone");
    assert_eq!(list(&temporary).iter().filter(|name| name.starts_with("remora-")).count(), 0);
    // A path that makes no sense boots nothing.
    assert_eq!(remora.run(["cp", "0011223344556677-1:relative", "/x"]).code(), 2);
}
