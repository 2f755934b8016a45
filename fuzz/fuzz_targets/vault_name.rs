//! Names that a store lists.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::name(bytes));
