//! The engine of the child, with the one component that it runs.

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine};

use super::super::wire::Unfit;
use super::bindings::{ObjectStore, ObjectStorePre};
use super::instance::Guest;
use crate::host::{check_form, sandbox, start_clock};

/// The interfaces that a mover may import; `errors` has types only.
const IMPORTS: [&str; 4] =
    ["remora:mover/errors@0.1.0", "remora:mover/host-io@0.1.0", "remora:mover/log@0.1.0", "remora:mover/task@0.1.0"];

/// What it must export.
const EXPORT: &str = "remora:mover/objects@0.1.0";

pub(super) struct Runtime {
    pub(super) engine: Engine,
    pub(super) component: ObjectStorePre<Guest>,
}

impl Runtime {
    /// Compiles the component: here and not in the host, for a compiler reads what it is given.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, Unfit> {
        check_form(bytes).map_err(|error| unfit(error.to_string(), error.advice()))?;
        let mut config = Config::new();
        sandbox(&mut config);
        let engine =
            Engine::new(&config).map_err(|e| Unfit { component: false, why: format!("{e:#}"), advice: None })?;
        let component = Component::from_binary(&engine, bytes)
            .map_err(|e| unfit(format!("it is no valid component: {e:#}"), None))?;
        check_world(&engine, &component)?;
        let mut linker = Linker::new(&engine);
        ObjectStore::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest).map_err(|e| Unfit {
            component: false,
            why: format!("{e:#}"),
            advice: None,
        })?;
        let fits = linker.instantiate_pre(&component).and_then(ObjectStorePre::new);
        let component = fits.map_err(|e| unfit(format!("its imports or exports do not fit: {e:#}"), None))?;
        start_clock(&engine).map_err(|e| Unfit {
            component: false,
            why: format!("no thread for its clock: {e}"),
            advice: None,
        })?;
        Ok(Self { engine, component })
    }
}

fn unfit(why: String, advice: Option<&str>) -> Unfit {
    Unfit { component: true, why, advice: advice.map(Into::into) }
}

fn check_world(engine: &Engine, component: &Component) -> Result<(), Unfit> {
    let world = component.component_type();
    let beyond: Vec<_> =
        world.imports(engine).map(|(name, _)| name.to_owned()).filter(|name| !IMPORTS.contains(&&**name)).collect();
    if !beyond.is_empty() {
        return Err(unfit(
            format!("it imports {}, and a mover gets nothing but {}", beyond.join(", "), IMPORTS.join(", ")),
            Some("Build it for wasm32-unknown-unknown, against the wit/mover of this remora."),
        ));
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name.to_owned()).collect();
    if !exports.iter().any(|name| name == EXPORT) {
        return Err(unfit(
            format!("it does not export {EXPORT}; it exports {}", exports.join(", ")),
            Some("Name a mover of the world object-store, for this version of remora."),
        ));
    }
    Ok(())
}
