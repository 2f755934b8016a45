//! A component of the world `object-store` that was started.

use wasmtime::Store;
use wasmtime::component::{Resource, ResourceAny};

use super::super::wire::{Call, Done};
use super::bindings::objects::ObjectStore;
use super::imports;
use super::instance::{Called, Guest, Wrong};

/// The component, and its session once it is open.
pub(super) struct Objects {
    world: ObjectStore,
    session: Option<ResourceAny>,
}

impl Objects {
    pub(super) fn new(world: ObjectStore) -> Self {
        Self { world, session: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn validate(&self, store: &mut Store<Guest>, settings: &str) -> Called {
        let answer = self.world.remora_mover_objects().call_validate(store, settings)?;
        let wrong = answer.err().unwrap_or_default();
        Ok(Ok(Done::Validated(wrong.into_iter().map(|field| (field.path, field.message)).collect())))
    }

    pub(super) fn open(&mut self, store: &mut Store<Guest>, settings: &str, prefix: &str) -> Called {
        let opened = self.world.remora_mover_objects().call_open(store, settings, prefix)?;
        Ok(opened.map(|(session, can)| {
            self.session = Some(session);
            Done::Opened(imports::capabilities_of(can))
        }))
    }

    /// A function of the session, which is open.
    pub(super) fn call(&self, store: &mut Store<Guest>, call: Call) -> Called {
        let session = self.session.ok_or_else(|| wasmtime::format_err!("it was not opened"))?;
        let calls = self.world.remora_mover_objects().session();
        // Numbers mean nothing here: a call has one of each.
        let (buffer, sink) = (Resource::new_borrow(0), Resource::new_borrow(0));
        Ok(match call {
            Call::Validate { .. } | Call::Open { .. } | Call::Volume(_) => {
                return Err(wasmtime::format_err!("that is no function of its session"));
            }
            Call::Put { key, .. } => calls
                .call_put_if_absent(&mut *store, session, &key, buffer)?
                .map(|stored| Done::Stored(imports::stored_of(stored))),
            Call::Replace { key, .. } => calls.call_replace(store, session, &key, buffer)?.map(|()| Done::Nothing),
            Call::Get { key, offset, len } => {
                calls.call_get(store, session, &key, offset, len, sink)?.map(|()| Done::Nothing)
            }
            Call::Head { key } => {
                calls.call_head(store, session, &key)?.map(|object| Done::Object(imports::object_of(object)))
            }
            Call::List { prefix, after, token } => calls
                .call_list(store, session, &prefix, after.as_deref(), token.as_deref())?
                .map(|page| Done::Page(imports::page_of(page))),
            Call::Delete { keys } => {
                let each = calls.call_delete(store, session, &keys)?;
                Ok(Done::Deleted(each.into_iter().map(|one| one.map_err(imports::error_of)).collect()))
            }
            Call::Begin { key } => {
                let upload = calls.call_multipart(&mut *store, session, &key)?;
                return self.in_upload(store, upload, |world, store, upload| {
                    let uploads = world.remora_mover_objects().upload();
                    Ok(Ok(Done::Begun(uploads.call_token(store, upload)?)))
                });
            }
            Call::Part { key, token, number, .. } => {
                let upload = calls.call_resume(&mut *store, session, &key, &token)?;
                return self.in_upload(store, upload, |world, store, upload| {
                    let uploads = world.remora_mover_objects().upload();
                    Ok(uploads.call_part(store, upload, number, buffer)?.map(|()| Done::Nothing))
                });
            }
            Call::Complete { key, token, parts } => {
                let upload = calls.call_resume(&mut *store, session, &key, &token)?;
                return self.in_upload(store, upload, |world, store, upload| {
                    let uploads = world.remora_mover_objects().upload();
                    let stored = uploads.call_complete(store, upload, parts)?;
                    Ok(stored.map(|stored| Done::Stored(imports::stored_of(stored))))
                });
            }
            Call::Abort { key, token } => {
                let upload = calls.call_resume(&mut *store, session, &key, &token)?;
                return self.in_upload(store, upload, |world, store, upload| {
                    Ok(world.remora_mover_objects().upload().call_abort(store, upload)?.map(|()| Done::Nothing))
                });
            }
        })
    }

    /// Works with an upload, which then goes: another instance resumes it.
    fn in_upload(
        &self,
        store: &mut Store<Guest>,
        upload: Result<ResourceAny, Wrong>,
        work: impl FnOnce(&ObjectStore, &mut Store<Guest>, ResourceAny) -> Called,
    ) -> Called {
        let upload = match upload {
            Ok(upload) => upload,
            Err(error) => return Ok(Err(error)),
        };
        let done = work(&self.world, store, upload)?;
        upload.resource_drop(store)?;
        Ok(done)
    }
}
