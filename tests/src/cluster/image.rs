//! Images for the cluster's containerd, made of folders.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::guest::GuestImage;
use crate::process::{Must, run};

use super::node::Node;
use super::{Cluster, sources};

/// What the image of the guest is called.
const GUEST: &str = "docker.io/remora/guest:1";

impl Cluster {
    /// Gives the nodes an image `name`, of one layer: what is below `root`. It runs `entrypoint` as root. Pods must not
    /// ask for it to be pulled always.
    #[track_caller]
    pub fn load_image(&self, name: &str, root: &Path, entrypoint: &str) {
        let dir = tempfile::tempdir().must("make a folder for an image");
        let [layer, archive] = ["layer.tar", "image.tar"].map(|file| dir.path().join(file));
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--create", "--file"]);
        run(tar.arg(&layer).arg("--directory").arg(root).arg(".")).ok();
        let mut image = Command::new(sources().join("steps/image"));
        image.args([name, "", entrypoint]).arg(&layer);
        image.stdout(File::create(&archive).must("make an image")).stdin(Stdio::null());
        assert!(image.status().must("make an image").success(), "{image:?}");
        self.import_image(&archive);
    }

    /// Gives the nodes the image that an archive holds: those that are there, and those that join.
    #[track_caller]
    pub(super) fn import_image(&self, archive: &Path) {
        let kept = self.images();
        fs::create_dir_all(&kept).must("make a folder for images");
        let copy = kept.join(format!("{:016x}.tar", fastrand::u64(..)));
        fs::copy(archive, &copy).must("keep an image");
        let joined = entries(&self.node.dir().join("nodes"));
        for dir in joined.iter().map(PathBuf::as_path).chain([self.node.dir()]) {
            import(&Node::of(dir), &copy);
        }
    }

    /// Gives a node that joins the images that the others have been given.
    #[track_caller]
    pub(super) fn import_images(&self, node: &Node) {
        for archive in entries(&self.images()) {
            import(node, &archive);
        }
    }

    fn images(&self) -> PathBuf {
        self.node.dir().join("given-images")
    }

    /// The image that has the guest's kernel, `/boot/vmlinuz`, and `/boot/initrd.img`.
    pub(super) fn guest_image(&self) -> String {
        let mut loaded = self.guest.lock().must("have the guest's image");
        if loaded.is_none() {
            let guest = GuestImage::get();
            let root = tempfile::tempdir().must("make a folder for the guest's image");
            let boot = root.path().join("boot");
            fs::create_dir(&boot).must("make the guest's folder");
            for (from, name) in [(&guest.kernel, "vmlinuz"), (&guest.initrd, "initrd.img")] {
                fs::copy(from, boot.join(name)).must("copy the guest");
            }
            run(Command::new("chmod").args(["--recursive", "a+rX"]).arg(root.path())).ok();
            self.load_image(GUEST, root.path(), "");
            *loaded = Some(GUEST.to_owned());
        }
        GUEST.to_owned()
    }
}

/// Gives an image to a node, also by its digest: a machine that moves to another node has that image and no other there.
#[track_caller]
fn import(node: &Node, archive: &Path) {
    let ctr = |args: &[&str], input: Stdio| {
        let mut command = node.command("ctr");
        command.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", "images"]).args(args);
        let output = command.stdin(input).output().must("run ctr");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = ctr(&["import", "-"], File::open(archive).must("read an image").into());
    let imported = said.lines().find_map(|line| line.strip_prefix("unpacking ")?.strip_suffix(")...done"));
    let (name, digest) = imported.and_then(|line| line.split_once(" (")).must(format_args!("read of an image: {said}"));
    let (repository, _) = name.rsplit_once(':').must(format_args!("find the tag of {name}"));
    ctr(&["tag", "--force", name, &format!("{repository}@{digest}")], Stdio::null());
}

/// What is in a folder, if that is there.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.must(format_args!("list {}", dir.display())).path()).collect()
}
