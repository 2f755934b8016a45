//! A segment's footer, before and behind its authentication.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_vault::fuzzing::footer(bytes));
