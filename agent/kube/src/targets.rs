//! Which disks of a point a restore writes, and to which claims: the controller makes these, the agent sends those.

use std::collections::BTreeMap;

use remora_core::point::Point;

use crate::conditions::Says;
use crate::resources::{RestoreRun, RestoreRunSpec};

/// One disk and its claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number in the worker.
    pub number: u32,
    /// Its place in the point.
    pub index: usize,
    /// Its name in the point.
    pub disk: String,
    /// Its size in bytes.
    pub size: u64,
    /// The claim.
    pub claim: String,
    /// The `StorageClass` that is asked for, if the claim is made.
    pub storage_class: Option<String>,
}

/// All of a run's; or what it names that is not in the point.
pub fn targets(spec: &RestoreRunSpec, point: &Point) -> Result<Vec<Target>, Says> {
    let places: BTreeMap<_, _> = point.disks.iter().enumerate().map(|(at, disk)| (disk.name.to_string(), at)).collect();
    let one = |number: usize, name: &str, claim: String, class: &str| -> Result<Target, Says> {
        let index = *places.get(name).ok_or_else(|| no_such_disk(name, point))?;
        Ok(Target {
            number: number as u32,
            index,
            disk: name.to_owned(),
            size: point.disks[index].size,
            claim,
            storage_class: (!class.is_empty()).then(|| class.to_owned()),
        })
    };
    match &spec.virtual_machine {
        None => {
            let disks = spec.disks.iter().enumerate();
            disks.map(|(number, to)| one(number, &to.disk, to.claim.clone(), &to.storage_class_name)).collect()
        }
        Some(machine) => {
            let disks = point.disks.iter().map(|disk| disk.name.to_string()).enumerate();
            let claim = |disk: &str| format!("{}-{disk}", machine.name);
            disks.map(|(number, disk)| one(number, &disk, claim(&disk), &machine.storage_class_name)).collect()
        }
    }
}

/// Whether a restore could have a claim of that name made.
pub(crate) fn is_target(run: &RestoreRun, claim: &str) -> bool {
    match &run.spec.virtual_machine {
        None => run.spec.disks.iter().any(|to| to.claim == claim),
        Some(machine) => claim.strip_prefix(&machine.name).is_some_and(|rest| rest.starts_with('-')),
    }
}

fn no_such_disk(name: &str, point: &Point) -> Says {
    let names: Vec<_> = point.disks.iter().map(|disk| disk.name.to_string()).collect();
    let message = format!(
        "Point {} has no disk {name}; it has {}. Create another RestoreRun with one of these.",
        point.id,
        names.join(", ")
    );
    Says::no("NoSuchDisk", message)
}
