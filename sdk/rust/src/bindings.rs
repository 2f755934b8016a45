//! What `wit-bindgen` makes of `wit/policy`: a module for each world.
#![allow(missing_docs)]

macro_rules! world {
    ($name:ident, $world:literal, $module:literal) => {
        pub mod $name {
            wit_bindgen::generate!({
                path: "../../wit/policy/0.1.0",
                world: $world,
                pub_export_macro: true,
                export_macro_name: "export",
                default_bindings_module: $module,
            });
        }
    };
}

world!(select, "selector", "remora_sdk::bindings::select");
world!(schedule, "scheduler", "remora_sdk::bindings::schedule");
world!(retention, "keeper", "remora_sdk::bindings::retention");
world!(authorize, "authorizer", "remora_sdk::bindings::authorize");
