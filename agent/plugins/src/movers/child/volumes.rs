//! A component of the world `volume-store` that was started.

use wasmtime::Store;
use wasmtime::component::{Resource, ResourceAny};

use super::super::wire::{
    Done, NewPoint, PointPage, VolumeCall, VolumeCapabilities, VolumeDisk, VolumeDone, VolumeExtent, VolumePoint,
};
use super::bindings::volumes::VolumeStore;
use super::bindings::volumes::exports::remora::mover::volume as wit;
use super::instance::{Called, Guest, Wrong};

/// The component, and its store once it is open.
pub(super) struct Volumes {
    world: VolumeStore,
    open: Option<ResourceAny>,
}

impl Volumes {
    pub(super) fn new(world: VolumeStore) -> Self {
        Self { world, open: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn validate(&self, store: &mut Store<Guest>, settings: &str) -> Called {
        let answer = self.world.remora_mover_volume().call_validate(store, settings)?;
        let wrong = answer.err().unwrap_or_default();
        Ok(Ok(Done::Validated(wrong.into_iter().map(|field| (field.path, field.message)).collect())))
    }

    pub(super) fn open(&mut self, store: &mut Store<Guest>, settings: &str) -> Called {
        let opened = self.world.remora_mover_volume().call_open(store, settings)?;
        Ok(opened.map(|(opened, can)| {
            self.open = Some(opened);
            Done::Volume(VolumeDone::Opened(VolumeCapabilities {
                incremental: can.incremental,
                granularity: can.granularity,
                max_transfer: can.max_transfer,
            }))
        }))
    }

    /// A function of the store, which is open.
    pub(super) fn call(&self, store: &mut Store<Guest>, call: VolumeCall) -> Called {
        let open = self.open.ok_or_else(|| wasmtime::format_err!("it was not opened"))?;
        let calls = self.world.remora_mover_volume().store();
        Ok(match call {
            VolumeCall::Begin(point) => {
                let writer = calls.call_begin(&mut *store, open, &new_point(point))?;
                return self.with(store, writer, |world, store, writer| {
                    Ok(Ok(Done::Begun(world.remora_mover_volume().writer().call_token(store, writer)?)))
                });
            }
            VolumeCall::Write { id, token, disk, offset, .. } => {
                return self.in_writer(store, open, (&id, &token), |world, store, writer| {
                    // The number means nothing here: a call has one buffer.
                    let buffer = Resource::new_borrow(0);
                    world.remora_mover_volume().writer().call_write(store, writer, disk, offset, buffer)
                });
            }
            VolumeCall::Zero { id, token, disk, offset, len } => {
                return self.in_writer(store, open, (&id, &token), |world, store, writer| {
                    world.remora_mover_volume().writer().call_zero(store, writer, disk, offset, len)
                });
            }
            VolumeCall::Unchanged { id, token, disk, offset, len } => {
                return self.in_writer(store, open, (&id, &token), |world, store, writer| {
                    world.remora_mover_volume().writer().call_unchanged(store, writer, disk, offset, len)
                });
            }
            VolumeCall::Commit { id, token } => {
                return self.in_writer(store, open, (&id, &token), |world, store, writer| {
                    world.remora_mover_volume().writer().call_commit(store, writer)
                });
            }
            VolumeCall::Abort { id, token } => {
                return self.in_writer(store, open, (&id, &token), |world, store, writer| {
                    world.remora_mover_volume().writer().call_abort(store, writer)
                });
            }
            VolumeCall::List { vm, token } => calls
                .call_list(store, open, vm.as_deref(), token.as_deref())?
                .map(|page| Done::Volume(VolumeDone::Points(page_of(page)))),
            VolumeCall::Extents { point, disk, offset, len } => {
                let extents = calls.call_extents(store, open, &point, disk, offset, len)?;
                extents.map(|all| Done::Volume(VolumeDone::Extents(all.into_iter().map(extent_of).collect())))
            }
            VolumeCall::Read { point, disk, offset, len } => {
                let sink = Resource::new_borrow(0);
                calls.call_read(store, open, &point, disk, offset, len, sink)?.map(|()| Done::Nothing)
            }
            VolumeCall::Delete { point } => calls.call_delete(store, open, &point)?.map(|()| Done::Nothing),
        })
    }

    /// Works with the writer of a point that was begun.
    fn in_writer(
        &self,
        store: &mut Store<Guest>,
        open: ResourceAny,
        (id, token): (&str, &str),
        work: impl FnOnce(&VolumeStore, &mut Store<Guest>, ResourceAny) -> wasmtime::Result<Result<(), Wrong>>,
    ) -> Called {
        let writer = self.world.remora_mover_volume().store().call_resume(&mut *store, open, id, token)?;
        self.with(store, writer, |world, store, writer| Ok(work(world, store, writer)?.map(|()| Done::Nothing)))
    }

    /// Works with a writer, which then goes: another instance resumes it.
    fn with(
        &self,
        store: &mut Store<Guest>,
        writer: Result<ResourceAny, Wrong>,
        work: impl FnOnce(&VolumeStore, &mut Store<Guest>, ResourceAny) -> Called,
    ) -> Called {
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => return Ok(Err(error)),
        };
        let done = work(&self.world, store, writer)?;
        writer.resource_drop(store)?;
        Ok(done)
    }
}

fn new_point(point: NewPoint) -> wit::NewPoint {
    wit::NewPoint {
        id: point.id,
        vm_name: point.vm_name,
        vm_namespace: point.vm_namespace,
        vm_uid: point.vm_uid,
        time: point.time,
        disks: point.disks.into_iter().map(|disk| wit::Disk { name: disk.name, size: disk.size }).collect(),
        parent: point.parent,
        description: point.description,
    }
}

fn page_of(page: wit::Page) -> PointPage {
    let point = |point: wit::Point| VolumePoint {
        id: point.id,
        vm_name: point.vm_name,
        disks: point.disks.into_iter().map(|disk| VolumeDisk { name: disk.name, size: disk.size }).collect(),
        description: point.description,
    };
    PointPage { points: page.points.into_iter().map(point).collect(), next: page.next }
}

fn extent_of(extent: wit::Extent) -> VolumeExtent {
    VolumeExtent { offset: extent.offset, len: extent.len, zero: matches!(extent.content, wit::Content::Zero) }
}
