//! The appliance: one small VM of libguestfs that has all disks of the point and serves all their filesystems.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use remora_core::{DiskName, Error, ErrorKind, Result};

use crate::guestfish::{Guestfish, Start, quoted};
use crate::layout::{self, Filesystem, Layout, ROOT};
use crate::mountpoint;
use crate::process;
use crate::scratch::Scratch;
use crate::skipped::Skipped;
use crate::views::{self, View};

/// How to run the appliance.
#[derive(Clone, Debug)]
pub struct ApplianceOptions {
    /// Where libguestfs keeps the appliance that it builds at first use; its default is `/var/tmp`.
    pub cache: Option<PathBuf>,
    /// Where small temporary files go; the default is the system's. Journals that are replayed when a filesystem is
    /// mounted go there, too, so at most a few GiB.
    pub scratch: Option<PathBuf>,
    /// Memory of the VM, in MiB.
    pub memory_mib: u32,
    /// How long one step (the boot, a mount) may take.
    pub patience: Duration,
}

impl Default for ApplianceOptions {
    fn default() -> Self {
        // A cold emulated boot takes half a minute on a busy machine.
        Self { cache: None, scratch: None, memory_mib: 768, patience: Duration::from_mins(5) }
    }
}

/// What is needed to start.
pub(crate) struct Boot<'a> {
    /// The disks, in order.
    pub(crate) disks: &'a [DiskName],
    /// Their raw images.
    pub(crate) images: Vec<PathBuf>,
    /// The folder that has `files` in it.
    pub(crate) folder: &'a Path,
    pub(crate) options: &'a ApplianceOptions,
}

/// What is served.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// None if there is nothing to serve.
    pub(crate) appliance: Option<Appliance>,
    pub(crate) filesystems: Vec<String>,
    pub(crate) skipped: Vec<Skipped>,
}

/// A running appliance that serves `files/`.
#[derive(Debug)]
pub(crate) struct Appliance {
    // The processes go before the folder that they use.
    guestfish: Guestfish,
    qemu: Option<Pid>,
    files: PathBuf,
    _scratch: Scratch,
}

impl Appliance {
    /// Boots, mounts every filesystem within, and serves them on `files`.
    pub(crate) async fn boot(boot: Boot<'_>) -> Result<Served> {
        let parent = boot.options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = Scratch::new(&parent)
            .map_err(|source| Error::io(format!("making a scratch folder in {}", parent.display()), source))?;
        let mut appliance = launch(&boot, scratch).await?;
        let patience = boot.options.patience;
        let listed = appliance.guestfish.run(&format!("debug sh \"{}\"", layout::LIST_DEVICES), patience).await?;
        if let Some(error) = listed.error {
            let what = format!("listing the point's filesystems: {error}");
            return Err(appliance.give_up(Error::new(ErrorKind::Unavailable, what)).await);
        }
        let devices = layout::parse_devices(&listed.text);
        let Layout { filesystems, mut skipped } = layout::lay_out(&devices, boot.disks);
        let mounted = appliance.mount_all(filesystems, &mut skipped, patience).await?;
        let mut shown: Vec<String> = mounted.iter().map(|fs| fs.path.clone()).collect();
        if let Some(view) = views::find(&mut appliance.guestfish, &mounted, &devices, boot.disks, patience).await? {
            appliance.mount_root(&view, &mut shown, &mut skipped, patience).await?;
        }
        if shown.is_empty() {
            appliance.end().await?;
            return Ok(Served { skipped, ..Served::default() });
        }
        appliance.serve(patience).await?;
        Ok(Served { appliance: Some(appliance), filesystems: shown, skipped })
    }

    /// Mounts each filesystem on its folder; returns those that could be.
    async fn mount_all(
        &mut self,
        filesystems: Vec<Filesystem>,
        skipped: &mut Vec<Skipped>,
        patience: Duration,
    ) -> Result<Vec<Filesystem>> {
        let mut commands = Vec::new();
        for filesystem in &filesystems {
            let path = Path::new("/").join(&filesystem.path);
            let mut folders: Vec<_> = path.ancestors().map(|p| p.display().to_string()).collect();
            folders.pop();
            commands.extend(folders.iter().rev().map(|folder| format!("mkmountpoint \"{folder}\"")));
        }
        // Folders that several share are there already the second time.
        self.guestfish.run_all(&commands, patience).await?;
        let mut mounted = Vec::new();
        for filesystem in filesystems {
            let attempts: Vec<_> = options_for(&filesystem.device.holds)
                .iter()
                .map(|options| mount_command(options, &filesystem.device.name, &filesystem.path))
                .collect();
            let mut why = String::new();
            let mut done = false;
            for attempt in attempts {
                match self.guestfish.run(&attempt, patience).await?.error {
                    None => done = true,
                    Some(error) => why = error,
                }
                if done {
                    break;
                }
            }
            if done {
                mounted.push(filesystem);
            } else {
                tracing::warn!(device = %filesystem.path, "a filesystem cannot be mounted: {why}");
                self.guestfish.run(&format!("rmmountpoint \"/{}\"", filesystem.path), patience).await?;
                skipped.push(Skipped { what: filesystem.path, why: format!("it cannot be mounted: {why}") });
            }
        }
        Ok(mounted)
    }

    /// Mounts the guest's own view. Its folders are the guest's: one that is a link would lead the mount elsewhere.
    async fn mount_root(
        &mut self,
        view: &View,
        shown: &mut Vec<String>,
        skipped: &mut Vec<Skipped>,
        patience: Duration,
    ) -> Result<()> {
        self.guestfish.run(&format!("mkmountpoint \"/{ROOT}\""), patience).await?;
        for part in &view.parts {
            let path = format!("{ROOT}{}", part.folder.trim_end_matches('/'));
            let mut skip = |why: String| skipped.push(Skipped { what: path.clone(), why });
            let Some(target) = quoted(&format!("/{path}")) else {
                skip("its folder has a name that cannot be passed on".into());
                continue;
            };
            let Some(filesystem) = &part.filesystem else {
                skip(format!("fstab wants {} there, which is not on these disks or cannot be mounted", part.spec));
                continue;
            };
            if part.folder != "/" {
                let real = self.guestfish.run(&format!("realpath {target}"), patience).await?;
                if real.error.is_some() || real.text.trim_end_matches('\n') != format!("/{path}") {
                    skip("the guest has no such folder, or a link in its place".into());
                    continue;
                }
            }
            let options = part.options();
            let command = format!("mount-options {} {} {target}", options, filesystem.device.name);
            match self.guestfish.run(&command, patience).await?.error {
                None if part.folder == "/" => shown.push(ROOT.to_owned()),
                None => {}
                Some(error) => {
                    skip(format!("it cannot be mounted there: {error}"));
                    if part.folder == "/" {
                        self.guestfish.run(&format!("rmmountpoint \"/{ROOT}\""), patience).await?;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Mounts `files` and waits until it answers.
    async fn serve(&mut self, patience: Duration) -> Result<()> {
        // Nothing changes, so what was looked up may be kept.
        let command = "mount-local files readonly:true cachetimeout:3600 options:ro,fsname=remora";
        if let Some(error) = self.guestfish.run(command, patience).await?.error {
            return Err(Error::new(ErrorKind::Unavailable, format!("serving the guest's files: {error}")));
        }
        self.guestfish.run_last("mount-local-run").await?;
        let files = self.files.clone();
        let answered = tokio::task::spawn_blocking(move || std::fs::read_dir(files).map(|_| ()));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(source))) => Err(Error::io("looking at the guest's files", source)),
            Ok(Err(_)) | Err(_) => Err(Error::new(ErrorKind::Unavailable, "the guest's files do not answer")),
        }
    }

    /// Why `files` is not served any more, if that is so.
    pub(crate) fn failure(&self) -> Option<String> {
        if let Some(how) = self.guestfish.group.exit() {
            let unmounted = how == "exit status: 0" && !mountpoint::is_mounted(&self.files);
            return Some(if unmounted { "files/ was unmounted".into() } else { format!("guestfish ended ({how})") });
        }
        self.qemu.is_some_and(|pid| !process::runs(pid)).then(|| "the appliance's QEMU ended".into())
    }

    /// Waits until all processes are gone, once `files` is unmounted; kills what does not go.
    pub(crate) async fn end(mut self) -> Result<()> {
        let gone = self.guestfish.end(Duration::from_secs(10)).await;
        if gone { Ok(()) } else { Err(Error::new(ErrorKind::Busy, "the appliance's processes cannot be killed")) }
    }

    async fn give_up(self, error: Error) -> Error {
        let _ = self.end().await;
        error
    }
}

/// Nothing of an appliance that is forgotten stays: not its mount, and its processes and files go with their owners.
impl Drop for Appliance {
    fn drop(&mut self) {
        if mountpoint::is_mounted(&self.files) {
            let _ = mountpoint::unmount(&self.files);
        }
    }
}

/// Boots the appliance. KVM may be there and not work (nested, old hardware); then it is emulated.
async fn launch(boot: &Boot<'_>, scratch: Scratch) -> Result<Appliance> {
    let mut start = Start {
        images: &boot.images,
        folder: boot.folder,
        scratch: scratch.path(),
        cache: boot.options.cache.as_deref(),
        emulate: false,
    };
    let chosen = std::env::var_os("LIBGUESTFS_BACKEND_SETTINGS").is_some();
    let kvm = has_kvm();
    start.emulate = !chosen && !kvm;
    let (guestfish, qemu) = match run(&start, boot.options).await {
        Err(error) if !chosen && kvm => {
            tracing::info!("the appliance does not run on KVM, so it is emulated: {}", error.chain());
            start.emulate = true;
            run(&start, boot.options).await?
        }
        other => other?,
    };
    if let Some(sockets) = guestfish.sockets() {
        scratch.belongs(sockets);
    }
    Ok(Appliance { guestfish, qemu, files: boot.folder.join("files"), _scratch: scratch })
}

/// Whether there is KVM, and a processor for it. Some kernels have a `/dev/kvm` without: they emulate one instruction after the other,
/// and an appliance boots for minutes, where QEMU's own emulation takes seconds.
fn has_kvm() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let opens = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    (cfg!(not(target_arch = "x86_64")) || virtualizes(&processor)) && opens()
}

/// Whether a processor of x86 can run virtual machines, by what the kernel tells of it.
fn virtualizes(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

async fn run(start: &Start<'_>, options: &ApplianceOptions) -> Result<(Guestfish, Option<Pid>)> {
    let mut guestfish = Guestfish::start(start).await?;
    let commands = [format!("set-memsize {}", options.memory_mib), "run".into(), "get-pid".into()];
    let answers = guestfish.run_all(&commands, options.patience).await?;
    guestfish.find_sockets();
    if let Some(error) = &answers[1].error {
        let what = format!("the appliance does not start: {error}");
        guestfish.end(Duration::ZERO).await;
        return Err(Error::new(ErrorKind::Unavailable, what)
            .advise("See what libguestfs-test-tool says; the disks can be mounted without the files."));
    }
    Ok((guestfish, answers[2].text.trim().parse().ok().map(Pid::from_raw)))
}

/// Ways to mount a kind of filesystem, the best first. A point is often made while the guest runs, so its journals are
/// dirty: replaying them, into an overlay that is thrown away, shows what the guest would see after a power cut. Where
/// that fails, files are shown as they are without it. Copies of a disk share their UUID, which xfs minds.
fn options_for(kind: &str) -> &'static [&'static str] {
    match kind {
        "ext3" | "ext4" => &["ro", "ro,noload"],
        "xfs" => &["ro,nouuid", "ro,nouuid,norecovery"],
        // The top level, so that every subvolume is below it.
        "btrfs" => &["ro,subvolid=5", "ro,subvolid=5,rescue=nologreplay", "ro,subvolid=5,rescue=all,degraded"],
        _ => &["ro"],
    }
}

fn mount_command(options: &str, device: &str, path: &str) -> String {
    format!("mount-options {options} {device} \"/{path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_runs_machines_by_its_flags_and_by_no_other_line() {
        for flag in ["vmx", "svm"] {
            assert!(virtualizes(&format!("processor\t: 0\nflags\t\t: fpu {flag} sse2\nbugs\t\t: mds\n")));
        }
        for other in
            ["", "flags\t\t: fpu sse2 vmx_tricks\n", "vmx flags\t: vnmi preemption_timer\n", "model name\t: svm\n"]
        {
            assert!(!virtualizes(other), "{other}");
        }
    }
}
