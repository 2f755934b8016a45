//! Writes the seeds of the fuzz targets to `fuzz/seeds`: `cargo run --release -p remora-nbd --example nbd_seeds`.
//!
//! Each is what a server sends, in the form that the functions of `remora_nbd::fuzzing` take.

use std::path::Path;

use wire::More::{No, Yes};
use wire::{ack, chunk, context, data, greeting, hole, info_blocks, info_export, option_reply, simple, status};

#[path = "../src/proto.rs"]
#[allow(dead_code, reason = "the client uses the rest")]
mod proto;
#[path = "../src/testing/wire.rs"]
mod wire;

/// For `remora_nbd::fuzzing::parsers`.
fn parts() -> Vec<(&'static str, Vec<u8>)> {
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

/// For `remora_nbd::fuzzing::conversation`, whose requests these answer.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let size = option_reply(proto::OPT_GO, proto::REP_INFO, &info_export(1 << 20));
    let sizes = option_reply(proto::OPT_GO, proto::REP_INFO, &info_blocks([1, 4096, 32 << 20]));
    let go = [size, sizes, ack(proto::OPT_GO)].concat();
    let granted = option_reply(proto::OPT_SET_META_CONTEXT, proto::REP_META_CONTEXT, &context(7, "base:allocation"));
    let contexts = [granted, ack(proto::OPT_SET_META_CONTEXT)].concat();
    let structured = [greeting(3), ack(proto::OPT_STRUCTURED_REPLY), contexts, go.clone()].concat();
    let failed = chunk(1, No, proto::CHUNK_ERROR_OFFSET, &[&[0, 0, 0, 5, 0, 3][..], b"bad", &[0; 8]].concat());
    let map = status(4, No, 7, &[(4096, 0), (8192, 3), (1 << 20, 0)]);
    let (left, right) = (hole(2, No, 8192, 262_144), data(3, No, 270_336, 512));
    let scattered =
        [data(0, Yes, 512, 256), data(0, Yes, 0, 256), hole(0, Yes, 768, 256), hole(0, No, 256, 256)].concat();
    let refused = option_reply(proto::OPT_STRUCTURED_REPLY, proto::REP_ERROR_BIT | 1, b"no");
    let unknown = option_reply(proto::OPT_SET_META_CONTEXT, proto::REP_ERR_UNKNOWN, b"no such export");
    let listed = option_reply(proto::OPT_LIST, proto::REP_SERVER, &[&3_u32.to_be_bytes()[..], b"vda"].concat());
    vec![
        ("in-order", [&structured[..], &data(0, No, 0, 1024), &data(1, No, 4096, 512), &left, &right, &map].concat()),
        ("out-of-order", [&structured[..], &right, &map, &data(1, No, 4096, 512), &scattered, &left].concat()),
        ("failed", [&structured[..], &failed, &data(0, No, 0, 1024), &left, &right, &map].concat()),
        ("simple", [&greeting(3)[..], &refused, &go, &simple(1, 0, &[5; 512]), &simple(0, 0, &[5; 1024])].concat()),
        (
            "unknown-export",
            [greeting(3), ack(proto::OPT_STRUCTURED_REPLY), unknown, listed, ack(proto::OPT_LIST)].concat(),
        ),
    ]
}

fn main() -> std::io::Result<()> {
    for (target, seeds) in [("nbd_reply", parts()), ("nbd_conversation", conversations())] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
