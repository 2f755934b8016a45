//! A part of a chunk behind its authentication.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::part(bytes));
