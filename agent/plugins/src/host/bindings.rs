//! What wasmtime makes of `wit/policy`: a module for each world.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

macro_rules! world {
    ($name:ident, $world:literal) => {
        pub(crate) mod $name {
            wasmtime::component::bindgen!({
                path: "../../wit/policy/0.1.0",
                world: $world,
                // What is asked is copied once, into the component's memory.
                ownership: Borrowing { duplicate_if_necessary: true },
            });
        }
    };
}

world!(select, "selector");
world!(schedule, "scheduler");
world!(retention, "keeper");
world!(authorize, "authorizer");
