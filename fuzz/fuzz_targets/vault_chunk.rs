//! A chunk behind its authentication.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::chunk(bytes));
