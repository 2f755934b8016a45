//! What `wit-bindgen` makes of `wit/policy` and `wit/mover`: a module for each world.
#![allow(missing_docs)]

macro_rules! world {
    ($name:ident, $path:literal, $world:literal, $module:literal) => {
        pub mod $name {
            wit_bindgen::generate!({
                path: $path,
                world: $world,
                pub_export_macro: true,
                export_macro_name: "export",
                default_bindings_module: $module,
            });
        }
    };
}

world!(select, "../../wit/policy/0.1.0", "selector", "remora_sdk::bindings::select");
world!(schedule, "../../wit/policy/0.1.0", "scheduler", "remora_sdk::bindings::schedule");
world!(retention, "../../wit/policy/0.1.0", "keeper", "remora_sdk::bindings::retention");
world!(authorize, "../../wit/policy/0.2.0", "authorizer", "remora_sdk::bindings::authorize");
world!(objects, "../../wit/mover/0.1.0", "object-store", "remora_sdk::bindings::objects");

/// What both worlds of movers have in common is one: requests, secrets, errors.
pub mod volumes {
    wit_bindgen::generate!({
        path: "../../wit/mover/0.1.0",
        world: "volume-store",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "remora_sdk::bindings::volumes",
        with: {
            "remora:mover/errors@0.1.0": crate::bindings::objects::remora::mover::errors,
            "remora:mover/host-io@0.1.0": crate::bindings::objects::remora::mover::host_io,
            "remora:mover/log@0.1.0": crate::bindings::objects::remora::mover::log,
            "remora:mover/task@0.1.0": crate::bindings::objects::remora::mover::task,
        },
    });
}
