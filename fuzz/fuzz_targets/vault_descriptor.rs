//! A repository's descriptor, as a store gives it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::descriptor(bytes));
