//! Reads what there is of a run's machine, and of what runs of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Reader, Result};
use crate::api_server::is_unknown;
use crate::controller::observed::{Claim, Found, Halted, Instance, Machine, Selectors};
use crate::controller::users::Others;
use crate::kubevirt::{Backing, KubeVirt, VirtualMachine, VirtualMachineInstance, bytes, tracking};
use crate::resources::BackupRun;

/// What KubeVirt says of a machine of which nothing runs, and nothing is to.
const STOPPED: &str = "Stopped";

impl Reader<'_> {
    /// What there is where the API server knows no backups.
    pub(super) async fn without_backups(&self) -> Result<Machine> {
        let known = self.client.list_api_group_resources("kubevirt.io/v1").await;
        match known {
            Ok(_) => Ok(Machine::NoBackups),
            Err(error) if is_unknown(&error) => Ok(Machine::NoKubeVirt),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn machine(&self, run: &BackupRun) -> Result<Machine> {
        let name = &run.spec.virtual_machine;
        let Some(machine) = self.api::<VirtualMachine>().get_opt(name).await? else { return Ok(Machine::Missing) };
        let instance = self.api::<VirtualMachineInstance>().get_opt(name).await?;
        let uid = machine.uid().unwrap_or_default();
        // One that another object made, or nobody, is not this machine's.
        let owned =
            |instance: &VirtualMachineInstance| instance.owner_references().iter().any(|owner| owner.uid == uid);
        let instance = instance.filter(owned);
        let of_machine = machine.status.as_ref().and_then(|status| status.changed_block_tracking.as_ref());
        let of_instance = instance.as_ref().and_then(|one| one.status.as_ref()?.changed_block_tracking.as_ref());
        let [of_machine, of_instance] = [of_machine, of_instance].map(|of| of.map(|tracking| tracking.state.as_str()));
        let tracking = tracking::state(of_instance, of_machine).to_owned();
        let selectors = if tracking == tracking::ENABLED { Selectors::default() } else { self.selectors().await? };
        let halted = if instance.is_none() { self.halted(run, &machine).await? } else { None };
        Ok(Machine::Found(Box::new(Found {
            uid,
            state: machine.status.and_then(|status| status.printable_status).unwrap_or_default(),
            tracking,
            selectors,
            instance: match instance {
                Some(instance) => Some(self.instance(instance).await?),
                None => None,
            },
            halted,
        })))
    }

    /// What can be read of a machine of which nothing runs.
    async fn halted(&self, run: &BackupRun, machine: &VirtualMachine) -> Result<Option<Halted>> {
        let state = machine.status.as_ref().and_then(|status| status.printable_status.as_deref());
        let template = machine.spec.template.as_ref().filter(|_| state == Some(STOPPED));
        let Some(template) = template else { return Ok(None) };
        let eligible = template.spec.eligible();
        let names: Vec<String> = eligible
            .filter_map(|(_, backing)| match backing {
                Backing::Claim(name) => Some(name.to_owned()),
                Backing::HostDisk(_) => None,
            })
            .collect();
        let of_machine: BTreeSet<String> = names.iter().cloned().collect();
        let others = Others::read(self, &of_machine).await?;
        let (ours, itself) = ([run.uid().unwrap_or_default()], format!("VirtualMachine {}", machine.name_any()));
        let mut claims = Vec::new();
        for name in names {
            let claim = self.api::<PersistentVolumeClaim>().get_opt(&name).await?;
            let block =
                |claim: PersistentVolumeClaim| claim.spec.and_then(|spec| spec.volume_mode).as_deref() == Some("Block");
            let users = others.of(&name, &ours).into_iter().filter(|user| *user != itself).collect();
            claims.push(Claim { name, block: claim.map(block), users });
        }
        Ok(Some(Halted { claims, placement: others.placement(&machine.name_any()) }))
    }

    async fn selectors(&self) -> Result<Selectors> {
        let installations: Api<KubeVirt> = Api::all(self.client.clone());
        let found = match installations.list(&ListParams::default()).await {
            Ok(list) => {
                list.items.into_iter().find_map(|one| one.spec.configuration.changed_block_tracking_label_selectors)
            }
            Err(error) if is_unknown(&error) => None,
            Err(error) => return Err(error),
        };
        let found = found.unwrap_or_default();
        Ok(Selectors { machines: found.virtual_machine_label_selector, namespaces: found.namespace_label_selector })
    }

    async fn instance(&self, instance: VirtualMachineInstance) -> Result<Instance> {
        let mut disks = Vec::new();
        for (volume, backing) in instance.spec.eligible() {
            let size = match backing {
                Backing::HostDisk(capacity) => capacity.and_then(bytes),
                Backing::Claim(claim) => self.capacity(claim).await?,
            };
            disks.push((volume.to_owned(), size));
        }
        // KubeVirt backs files of the node up too, and the scratch holds what changes of them; the agent does not read them.
        if !instance.spec.eligible().any(|(_, backing)| matches!(backing, Backing::Claim(_))) {
            disks.clear();
        }
        let status = instance.status.unwrap_or_default();
        let job = status.changed_block_tracking.and_then(|tracking| tracking.backup_status);
        let job = job.filter(|job| !job.completed && !job.failed).and_then(|job| job.backup_name);
        let migrating = status.migration_state.is_some_and(|migration| !migration.completed && !migration.failed);
        let phase = status.phase.unwrap_or_default();
        Ok(Instance { phase, node: status.node_name, migrating, disks, job })
    }

    /// What a claim has, or asks for if that is more.
    async fn capacity(&self, claim: &str) -> Result<Option<u64>> {
        let Some(claim) = self.api::<PersistentVolumeClaim>().get_opt(claim).await? else { return Ok(None) };
        let has = claim.status.and_then(|status| status.capacity);
        let asks = claim.spec.and_then(|spec| spec.resources?.requests);
        let size = |quantities: Option<BTreeMap<_, _>>| quantities.and_then(|all| all.get("storage").and_then(bytes));
        Ok(size(has).max(size(asks)))
    }
}
