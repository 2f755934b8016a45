//! Writes the seeds of the fuzz target `nbd_reply` to `fuzz/seeds`:
//! `cargo run --release -p remora-nbd --example fuzz_seeds`.
//!
//! Each is what an honest server sends, in the form that `remora_nbd::fuzzing::parsers` takes.

use std::path::Path;

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let size = (4_u64 << 30).to_be_bytes();
    let extents = [4096_u32, 1, 8192, 0].map(u32::to_be_bytes).concat();
    vec![
        ("greeting", b"NBDMAGICIHAVEOPT\0\x03".to_vec()),
        (
            "option-reply",
            [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &[0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12]].concat(),
        ),
        ("info-export", [&[0, 0][..], &size, &[1, 0x83]].concat()),
        ("info-blocks", [&[0, 3][..], &[1_u32, 4096, 32 << 20].map(u32::to_be_bytes).concat()].concat()),
        ("context", [&1_u32.to_be_bytes()[..], b"base:allocation"].concat()),
        ("listed", [&3_u32.to_be_bytes()[..], b"vda"].concat()),
        ("simple", [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &1_u64.to_be_bytes()].concat()),
        (
            "chunk",
            [&0x668e_33ef_u32.to_be_bytes()[..], &[0, 1, 0, 1], &1_u64.to_be_bytes(), &4104_u32.to_be_bytes()].concat(),
        ),
        ("hole", [&4096_u64.to_be_bytes()[..], &65536_u32.to_be_bytes()].concat()),
        ("error", [&5_u32.to_be_bytes()[..], &[0, 3], b"bad", &4096_u64.to_be_bytes()].concat()),
        ("extents", [&65536_u32.to_be_bytes()[..], &extents].concat()),
    ]
}

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/nbd_reply");
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in seeds() {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
