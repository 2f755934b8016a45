//! Everything that looks at the bytes of an NBD server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| remora_nbd::fuzzing::parsers(bytes));
