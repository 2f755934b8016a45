//! Compressing and decompressing records, with contexts that are kept and used again.

use std::sync::{Mutex, PoisonError};

use crate::wire::Malformed;

/// The zstd level of chunks and nodes: the fastest of the regular ones.
const LEVEL: i32 = 1;

static COMPRESSORS: Pool<Compressor> = Pool::new();
static DECOMPRESSORS: Pool<zstd::bulk::Decompressor<'static>> = Pool::new();

struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

/// As many contexts as were ever in use at once, which the workers bound. Not one a thread: the runtime has many more
/// threads than workers, and a context takes a megabyte.
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn with<R>(&self, make: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = kept.unwrap_or_else(make);
        let result = work(&mut context);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        result
    }
}

fn compressor() -> Compressor {
    let zstd = zstd::bulk::Compressor::new(LEVEL).expect("zstd allocates a context");
    Compressor { zstd, scratch: Vec::new() }
}

fn decompressor() -> zstd::bulk::Decompressor<'static> {
    zstd::bulk::Decompressor::new().expect("zstd allocates a context")
}

/// A record's bytes before they are sealed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The bytes, with room for a tag.
    pub(crate) bytes: Vec<u8>,
    /// Whether they are compressed.
    pub(crate) zstd: bool,
    /// Their length before.
    pub(crate) plain_len: u32,
}

/// Compresses `plain`, or copies it if that does not shrink it.
pub(crate) fn pack(plain: &[u8]) -> Packed {
    let plain_len = u32::try_from(plain.len()).expect("a record is at most a chunk long");
    let exact = |bytes: &[u8]| {
        let mut out = Vec::with_capacity(bytes.len() + crate::seal::TAG_LEN);
        out.extend_from_slice(bytes);
        out
    };
    COMPRESSORS.with(compressor, |Compressor { zstd, scratch }| {
        scratch.clear();
        // Room for less than the input: zstd gives up as soon as it cannot shrink it.
        scratch.reserve(plain.len());
        let room = plain.len().saturating_sub(1);
        match zstd.compress_to_buffer(plain, scratch) {
            Ok(len) if len <= room => Packed { bytes: exact(&scratch[..len]), zstd: true, plain_len },
            _ => Packed { bytes: exact(plain), zstd: false, plain_len },
        }
    })
}

/// The inverse of [`pack`].
pub(crate) fn unpack(bytes: Vec<u8>, zstd: bool, plain_len: u32) -> Result<Vec<u8>, Malformed> {
    let plain_len = plain_len as usize;
    if !zstd {
        return if bytes.len() == plain_len { Ok(bytes) } else { Err(Malformed("its length is another")) };
    }
    let mut plain = Vec::with_capacity(plain_len);
    DECOMPRESSORS
        .with(decompressor, |zstd| zstd.decompress_to_buffer(&bytes, &mut plain))
        .map_err(|_| Malformed("it does not decompress"))?;
    if plain.len() == plain_len { Ok(plain) } else { Err(Malformed("its length is another")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_is_compressed_and_the_rest_is_raw() {
        let text = b"remora ".repeat(1000);
        let packed = pack(&text);
        assert!(packed.zstd && packed.bytes.len() < 200);
        assert_eq!(unpack(packed.bytes, true, packed.plain_len).unwrap(), text);
        let noise: Vec<u8> =
            (0_u32..4096).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
        let packed = pack(&noise);
        assert!(!packed.zstd);
        assert_eq!(unpack(packed.bytes, false, packed.plain_len).unwrap(), noise);
    }

    #[test]
    fn a_lie_about_the_length_is_refused() {
        let packed = pack(&[0; 1000]);
        assert!(unpack(packed.bytes.clone(), true, 999).is_err());
        assert!(unpack(packed.bytes, true, 1001).is_err());
        assert!(unpack(vec![1, 2, 3], false, 4).is_err());
    }
}
