//! Leaves and inner nodes of maps, behind their authentication.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::node(bytes));
