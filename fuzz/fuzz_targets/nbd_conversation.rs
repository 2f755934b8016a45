//! A whole conversation with an NBD server: the handshake, and replies to several requests in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    remora_nbd::fuzzing::conversation(bytes);
});
