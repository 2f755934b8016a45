//! The engine of the child, with the one component that it runs.

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine};

use super::super::wire::{Unfit, World};
use super::bindings::objects::ObjectStorePre;
use super::bindings::objects::remora::mover::{errors, host_io, log, task};
use super::bindings::volumes::VolumeStorePre;
use super::compiled;
use super::instance::Guest;
use crate::host::{BUILD_AGAIN, FETCH_AGAIN, NEWER, check_form, sandbox, start_clock};

/// The interfaces that a mover may import; `errors` has types only.
const IMPORTS: [&str; 4] =
    ["remora:mover/errors@0.1.0", "remora:mover/host-io@0.1.0", "remora:mover/log@0.1.0", "remora:mover/task@0.1.0"];

/// What it must export, and the name of the world that does.
const fn export(world: World) -> (&'static str, &'static str) {
    match world {
        World::Objects => ("remora:mover/objects@0.1.0", "object-store"),
        World::Volumes => ("remora:mover/volume@0.1.0", "volume-store"),
    }
}

pub(super) struct Runtime {
    pub(super) engine: Engine,
    pub(super) component: Linked,
}

/// A component whose imports and exports were found.
pub(super) enum Linked {
    Objects(ObjectStorePre<Guest>),
    Volumes(VolumeStorePre<Guest>),
}

impl Runtime {
    /// Takes what was compiled of the component before, or compiles it: here and not in the host, for a compiler reads what it
    /// is given. With what was compiled now.
    pub(super) fn new(bytes: &[u8], known: Option<&[u8]>, world: World) -> Result<(Self, Option<Vec<u8>>), Unfit> {
        check_form(bytes).map_err(|error| unfit(error.to_string(), error.advice()))?;
        let mut config = Config::new();
        sandbox(&mut config);
        // A memory's first bytes would be in a file that lies in memory, which no limit counts and the child may not make.
        config.memory_init_cow(false);
        let engine =
            Engine::new(&config).map_err(|e| Unfit { component: false, why: format!("{e:#}"), advice: None })?;
        let known = known.and_then(|code| compiled::known(&engine, code));
        let (component, made) = if let Some(component) = known {
            (component, None)
        } else {
            let component = Component::from_binary(&engine, bytes)
                .map_err(|e| unfit(format!("it is no valid component: {e:#}"), Some(FETCH_AGAIN)))?;
            let made = compiled::kept(&component);
            (component, made)
        };
        check_world(&engine, &component, world)?;
        let linker = imports(&engine).map_err(|e| Unfit { component: false, why: format!("{e:#}"), advice: None })?;
        let fits = linker.instantiate_pre(&component).and_then(|linked| match world {
            World::Objects => ObjectStorePre::new(linked).map(Linked::Objects),
            World::Volumes => VolumeStorePre::new(linked).map(Linked::Volumes),
        });
        let component =
            fits.map_err(|e| unfit(format!("its imports or exports do not fit: {e:#}"), Some(BUILD_AGAIN)))?;
        start_clock(&engine).map_err(|e| Unfit {
            component: false,
            why: format!("no thread for its clock: {e}"),
            advice: None,
        })?;
        Ok((Self { engine, component }, made))
    }
}

/// What every mover gets.
fn imports(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    errors::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    host_io::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    log::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    task::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

fn unfit(why: String, advice: Option<&str>) -> Unfit {
    Unfit { component: true, why, advice: advice.map(Into::into) }
}

fn check_world(engine: &Engine, component: &Component, wanted: World) -> Result<(), Unfit> {
    let (export, named) = export(wanted);
    let world = component.component_type();
    let beyond: Vec<_> =
        world.imports(engine).map(|(name, _)| name.to_owned()).filter(|name| !IMPORTS.contains(&&**name)).collect();
    if !beyond.is_empty() {
        return Err(unfit(
            format!("it imports {}, and a mover gets nothing but {}", beyond.join(", "), IMPORTS.join(", ")),
            Some(if beyond.iter().any(|name| is_newer(name)) {
                NEWER
            } else {
                "Build it for wasm32-unknown-unknown, against the wit/mover of this remora."
            }),
        ));
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name.to_owned()).collect();
    if !exports.iter().any(|name| name == export) {
        let other = format!("Name a mover of the world {named}, for this version of remora.");
        return Err(unfit(
            format!("it does not export {export}; it exports {}", exports.join(", ")),
            Some(if exports.iter().any(|name| is_newer(name)) { NEWER } else { other.as_str() }),
        ));
    }
    Ok(())
}

/// Whether a name is one of `wit/mover` that this remora does not know.
fn is_newer(name: &str) -> bool {
    let known = [World::Objects, World::Volumes].map(|world| export(world).0);
    name.starts_with("remora:mover/") && !IMPORTS.contains(&name) && !known.contains(&name)
}
