//! What wasmtime makes of `wit/policy`: a module for each world.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

macro_rules! world {
    ($name:ident, $path:literal, $world:literal) => {
        pub(crate) mod $name {
            wasmtime::component::bindgen!({
                path: $path,
                world: $world,
                // What is asked is copied once, into the component's memory.
                ownership: Borrowing { duplicate_if_necessary: true },
            });
        }
    };
}

world!(select, "../../wit/policy/0.1.0", "selector");
world!(schedule, "../../wit/policy/0.1.0", "scheduler");
world!(retention, "../../wit/policy/0.1.0", "keeper");
world!(authorize_0_1, "../../wit/policy/0.1.0", "authorizer");
world!(authorize_0_2, "../../wit/policy/0.2.0", "authorizer");
