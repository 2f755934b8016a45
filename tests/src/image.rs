//! Disk images: empty ones, ones that hold given bytes, and KubeVirt's overlay for changed-block tracking.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Must, run};

/// How a disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A qcow2 image: holds bitmaps.
    Qcow2,
    /// A raw image: holds no bitmaps.
    Raw,
    /// A qcow2 image that holds bitmaps only, its data in a raw image beside it: what KubeVirt makes.
    Overlay,
}

impl Format {
    /// What libvirt and QEMU call the format of the image that a domain opens.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Qcow2 | Self::Overlay => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A disk that a domain is to have.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    target: String,
    format: Format,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Zeros(u64),
    Raw(PathBuf),
}

impl DiskSpec {
    /// An empty disk of `size` bytes, seen as `target` (`vda`).
    pub fn new(target: &str, format: Format, size: u64) -> Self {
        Self { target: target.into(), format, content: Content::Zeros(size) }
    }

    /// An empty qcow2 disk of `size` bytes.
    pub fn qcow2(target: &str, size: u64) -> Self {
        Self::new(target, Format::Qcow2, size)
    }

    /// An empty raw disk of `size` bytes.
    pub fn raw(target: &str, size: u64) -> Self {
        Self::new(target, Format::Raw, size)
    }

    /// An empty disk of `size` bytes behind KubeVirt's overlay.
    pub fn overlay(target: &str, size: u64) -> Self {
        Self::new(target, Format::Overlay, size)
    }

    /// A disk that holds what the raw file `content` holds. The file is copied.
    pub fn holding(target: &str, format: Format, content: &Path) -> Self {
        Self { target: target.into(), format, content: Content::Raw(content.into()) }
    }

    /// The name that the domain gives it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Makes the image in `dir`.
    pub fn create(&self, dir: &Path) -> Image {
        let extension = self.format.driver();
        let path = dir.join(format!("{}.{extension}", self.target));
        let data = match self.format {
            Format::Overlay => {
                let data = dir.join(format!("{}.data.raw", self.target));
                create_overlay(&data, &path, self.content.size());
                self.content.write_raw(&data);
                Some(data)
            }
            Format::Raw => {
                self.content.write_raw(&path);
                None
            }
            Format::Qcow2 => {
                self.content.write_qcow2(&path);
                None
            }
        };
        Image { target: self.target.clone(), format: self.format, path, data }
    }
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Zeros(size) => *size,
            Self::Raw(source) => fs::metadata(source).must(format_args!("look at {}", source.display())).len(),
        }
    }

    fn write_raw(&self, path: &Path) {
        match self {
            Self::Zeros(size) => {
                File::create(path).and_then(|file| file.set_len(*size)).must(format_args!("make {}", path.display()));
            }
            Self::Raw(source) => {
                run(Command::new("cp").args(["--sparse=always", "--reflink=auto", "--"]).arg(source).arg(path)).ok();
            }
        }
    }

    fn write_qcow2(&self, path: &Path) {
        let mut qemu_img = Command::new("qemu-img");
        match self {
            Self::Zeros(size) => qemu_img.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string()),
            Self::Raw(source) => qemu_img.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(source).arg(path),
        };
        run(&mut qemu_img).ok();
    }
}

/// A disk image on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name that its domain gives it.
    pub target: String,
    /// How it is stored.
    pub format: Format,
    /// The file that the domain opens.
    pub path: PathBuf,
    /// The raw file that an overlay's data lies in.
    pub data: Option<PathBuf>,
}

impl Image {
    /// Its size in bytes, as the guest sees it.
    pub fn size(&self) -> u64 {
        let mut qemu_img = Command::new("qemu-img");
        qemu_img.args(["info", "-U", "--output=json", "-f", self.format.driver()]).arg(&self.path);
        let info = run(&mut qemu_img).ok().json();
        info["virtual-size"].as_u64().must("read an image's virtual size")
    }
}

/// Makes the qcow2 image `overlay` over the raw image `data` of `size` bytes, which is emptied. (QEMU 7.2's own job
/// `blockdev-create` would keep what is in it, but aborts now and then: an assertion on `qemu_in_coroutine` fails.)
fn create_overlay(data: &Path, overlay: &Path, size: u64) {
    let data = data.to_str().must("name a data file in UTF-8").replace(',', ",,");
    let mut qemu_img = Command::new("qemu-img");
    qemu_img.args(["create", "-q", "-f", "qcow2", "-o", &format!("data_file={data},data_file_raw=on")]);
    run(qemu_img.arg(overlay).arg(size.to_string())).ok();
}
