//! Definitions of domains.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use quick_xml::escape::escape;

use super::{Domain, console};
use crate::guest::{Agent, GuestImage};
use crate::image::{DiskSpec, Image};
use crate::lab::Lab;
use crate::process::Must;

/// A domain to be.
pub struct DomainBuilder<'lab> {
    lab: &'lab Lab,
    name: String,
    guest: Option<Agent>,
    disks: Vec<DiskSpec>,
}

impl<'lab> DomainBuilder<'lab> {
    pub(crate) fn new(lab: &'lab Lab, name: &str) -> Self {
        Self { lab, name: name.into(), guest: None, disks: Vec::new() }
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disks.push(disk);
        self
    }

    /// Gives it a guest with such an agent, which runs when the domain is started.
    #[must_use]
    pub fn guest(mut self, agent: Agent) -> Self {
        self.guest = Some(agent);
        self
    }

    /// Makes the images and defines the domain; it stays shut off.
    pub fn define(self) -> Domain<'lab> {
        let dir = self.lab.new_image_dir();
        let images: Vec<Image> = self.disks.iter().map(|disk| disk.create(&dir)).collect();
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").must("make a UUID").trim().to_owned();
        let file = dir.join("domain.xml");
        // libvirt defines no domain whose name has several lines, but takes one that is renamed so.
        let two_lines = self.name.contains('\n');
        let name = if two_lines { &uuid } else { &self.name };
        fs::write(&file, self.xml(name, &uuid, &images, &dir)).must("write a domain's definition");
        self.lab.virsh(&["define".as_ref(), file.as_os_str()]);
        if two_lines {
            self.lab.virsh(&["domrename", "--domain", &uuid, "--new-name", &self.name]);
        }
        Domain { lab: self.lab, name: self.name, uuid, dir, images: Mutex::new(images), copies: AtomicU32::new(0) }
    }

    /// Makes and starts a domain without any guest, its processors stopped: there in half a second, its disks to be
    /// written with [`Domain::write`].
    pub fn paused(self) -> Domain<'lab> {
        let domain = self.define();
        domain.start_paused();
        domain
    }

    /// Makes and starts a domain with a guest, and waits until that is up: some 8 s.
    pub fn booted(mut self, agent: Agent) -> Domain<'lab> {
        self.guest = Some(agent);
        let domain = self.define();
        domain.start();
        domain.guest().wait(agent);
        domain
    }

    fn xml(&self, name: &str, uuid: &str, images: &[Image], dir: &Path) -> String {
        let (memory, boot) = match self.guest {
            None => (64, String::new()),
            Some(agent) => (192, boot_xml(agent)),
        };
        let disks: String = images.iter().map(disk_xml).collect();
        let ports = "<controller type='pci' model='pcie-root-port'/>\n".repeat(SPARE_PORTS);
        let agent = match self.guest {
            None | Some(Agent::Absent) => "",
            Some(_) => "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n",
        };
        format!(
            "<domain type='qemu'>
<name>{name}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
<features><acpi/></features><cpu mode='maximum'/>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
{disks}{agent}<controller type='pci' index='0' model='pcie-root'/>
{ports}<serial type='file'><source path='{console}'/></serial>
<memballoon model='none'/>
</devices>
<seclabel type='none'/>
</domain>
",
            name = escape(name),
            console = escape(&*console(dir).to_string_lossy()),
        )
    }
}

/// How the guest is booted: without any boot loader or boot disk.
fn boot_xml(agent: Agent) -> String {
    let image = GuestImage::get();
    format!(
        "<kernel>{}</kernel><initrd>{}</initrd><cmdline>console=ttyS0 quiet random.trust_cpu=on {}</cmdline>",
        escape(&*image.kernel.to_string_lossy()),
        escape(&*image.initrd.to_string_lossy()),
        agent.argument(),
    )
}

/// Root ports: some for the devices of the start, the others for disks that are attached later.
const SPARE_PORTS: usize = 12;

/// The definition of a disk. Its alias is ours, so that its device is known to QEMU by a name that we know.
pub(super) fn disk_xml(image: &Image) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{driver}' discard='unmap'/><source file='{file}'/>\
         <target dev='{target}' bus='virtio'/><alias name='{alias}'/></disk>\n",
        driver = image.format.driver(),
        file = escape(&*image.path.to_string_lossy()),
        target = image.target,
        alias = alias(&image.target),
    )
}

/// QEMU's path of a disk's device. (A command on a block node's name would conflict with the guest's use of it.)
pub(super) fn device_path(target: &str) -> String {
    format!("/machine/peripheral/{}/virtio-backend", alias(target))
}

/// libvirt takes names of the user's only with this prefix.
fn alias(target: &str) -> String {
    format!("ua-{target}")
}
