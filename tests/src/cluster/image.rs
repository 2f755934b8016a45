//! Images for the cluster's containerd, made of folders.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::guest::GuestImage;
use crate::process::{Must, run};

use super::{Cluster, sources};

/// What the image of the guest is called.
const GUEST: &str = "docker.io/remora/guest:1";

impl Cluster {
    /// Gives the node an image `name`, of one layer: what is below `root`. It runs `entrypoint` as root. Pods must not
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

    /// Gives the node the image that an archive holds.
    #[track_caller]
    pub(super) fn import_image(&self, archive: &Path) {
        let mut import = self.in_node("ctr");
        import.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", "images", "import", "-"]);
        import.stdin(File::open(archive).must("read an image")).stdout(Stdio::null());
        assert!(import.status().must("import an image").success(), "{import:?}");
    }

    /// The image that has the guest's kernel, `/boot/vmlinuz`, and `/boot/initrd.img`.
    pub(super) fn guest_image(&self) -> String {
        let mut loaded = self.guest.lock().must("have the guest's image");
        if loaded.is_none() {
            let guest = GuestImage::get();
            let root = tempfile::tempdir().must("make a folder for the guest's image");
            let boot = root.path().join("boot");
            std::fs::create_dir(&boot).must("make the guest's folder");
            for (from, name) in [(&guest.kernel, "vmlinuz"), (&guest.initrd, "initrd.img")] {
                std::fs::copy(from, boot.join(name)).must("copy the guest");
            }
            run(Command::new("chmod").args(["--recursive", "a+rX"]).arg(root.path())).ok();
            self.load_image(GUEST, root.path(), "");
            *loaded = Some(GUEST.to_owned());
        }
        GUEST.to_owned()
    }
}
