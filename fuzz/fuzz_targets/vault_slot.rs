//! A key slot, as a store gives it, and with its checksum made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::slot(bytes));
