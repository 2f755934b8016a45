//! What the fuzz targets drive: everything that looks at stored bytes, behind the authentication too, as a writer gone
//! wrong could have sealed anything. None may panic, whatever the bytes are; what is accepted comes back as it was.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use remora_core::{BLOCK_SIZE, ByteRange, PointId, RepositoryId};

use crate::descriptor::Descriptor;
use crate::keys::{Digest, Key, RepositoryKeys, TenantKeys};
use crate::manifest::{self, Manifest};
use crate::map::node::{CHUNK_BLOCKS, Child, FANOUT, Inner, LEAF_BLOCKS, LEAF_BYTES, Leaf, RecordRef, Run, Target};
use crate::names::{self, Folder, SegmentId};
use crate::reader::chunk_runs;
use crate::seal::{Kind, Place, seal, seal_object};
use crate::secret::{KeyFile, Secret};
use crate::segment::build::{Builder, HEADER_LEN};
use crate::segment::codec::{self, Packed};
use crate::segment::footer::{self, Holds, Index, Trailer};
use crate::segment::part::{Blocks, Part};
use crate::slot::{Effort, Slot};
use crate::tenant::Tenant;

const PLACE: Place = Place { repository: [1; 16], tenant: [2; 8], object: [3; 16], number: 4 };

/// The descriptor, as it is stored.
pub fn descriptor(bytes: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        assert_eq!(Descriptor::decode(&descriptor.encode()).expect("it was read before"), descriptor);
    }
}

/// A key slot, as it is stored, and with its checksum made right.
pub fn slot(bytes: &[u8]) {
    if let Ok(slot) = Slot::decode(bytes) {
        assert_eq!(Slot::decode(&slot.encode()).expect("it was read before"), slot);
    }
    if let Some(forged) = Slot::forged(bytes) {
        let secret = Secret::KeyFile(KeyFile::new(&[7; KeyFile::LEN]).expect("it has that length"));
        // A passphrase would cost what the slot says, up to the cap.
        drop(forged.unwrap(&secret, RepositoryId::from_bytes([1; 16])));
    }
}

/// A manifest: the packed text behind the authentication, and the object as it is stored.
pub fn manifest(bytes: &[u8]) {
    let key = Key::from_bytes([7; 32]);
    drop(Manifest::open(&key, &PLACE, bytes));
    // As they are, and as the text.
    for packed in [bytes.to_vec(), zstd::bulk::compress(bytes, 1).expect("it compresses")] {
        let object = [manifest::MAGIC.as_slice(), &seal_object(&key, Kind::Manifest, &PLACE, packed)].concat();
        let Ok(manifest) = Manifest::open(&key, &PLACE, &object) else { continue };
        let again = manifest.seal(&key, &PLACE).expect("it is no longer than before");
        assert_eq!(Manifest::open(&key, &PLACE, &again).expect("it was read before"), manifest);
        if let Some(entry) = manifest.into_point() {
            drop(entry.check(&PointId::new("0011223344556677", 1).expect("it is one")));
        }
    }
}

/// A leaf of as many blocks as the first two bytes say, and an inner node of as many children.
pub fn node(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first_chunk() else { return };
    let count = u16::from_le_bytes(*count);
    let blocks = count % LEAF_BLOCKS as u16 + 1;
    if let Ok(leaf) = Leaf::decode(bytes, blocks) {
        assert_eq!(leaf.runs().iter().map(|run| u64::from(run.count)).sum::<u64>(), u64::from(blocks));
        assert_eq!(Leaf::decode(&leaf.encode(), blocks).expect("it was read before"), leaf);
        let all = ByteRange::new(0, (u64::from(blocks) * BLOCK_SIZE - 1).min(LEAF_BYTES));
        let read: u64 = chunk_runs(&leaf, all).map(|run| run.range.len()).sum();
        assert!(read <= all.len(), "a leaf maps more than it covers");
    }
    let children = u64::from(count) % FANOUT + 1;
    if let Ok(inner) = Inner::decode(bytes, children) {
        assert_eq!(inner.children.len() as u64, children);
        assert_eq!(Inner::decode(&inner.encode(), children).expect("it was read before"), inner);
    }
}

/// A segment's end as it is stored, and the plaintext of an index and of details behind the authentication. The first
/// two bytes say how long the index is.
pub fn footer(bytes: &[u8]) {
    let keys = TenantKeys::new(&Key::from_bytes([7; 32]));
    for object_len in [bytes.len() as u64, u64::MAX] {
        if let Ok(trailer) = Trailer::decode(bytes, object_len, HEADER_LEN) {
            assert!(trailer.details_at >= HEADER_LEN && trailer.index_at >= trailer.details_at);
            drop(trailer.open_index(&keys.footers, &PLACE, bytes, HEADER_LEN));
        }
    }
    let Some((len, plain)) = bytes.split_first_chunk() else { return };
    let (index, details) = plain.split_at(usize::from(u16::from_le_bytes(*len)).min(plain.len()));
    for records_end in [HEADER_LEN, HEADER_LEN + 100, 1 << 20] {
        let Ok(index) = Index::decode(index, HEADER_LEN, records_end) else { continue };
        assert_eq!(HEADER_LEN + index.records.iter().map(|r| u64::from(r.stored_len)).sum::<u64>(), records_end);
        let again = Index::decode(&index.encode(), HEADER_LEN, records_end).expect("it was read before");
        assert_eq!(again, index);
        for record in &index.records {
            assert!(index.record(record.number).is_some_and(|(_, found)| found == record));
        }
        open_details(&keys, &index, details);
    }
}

fn open_details(keys: &TenantKeys, index: &Index, plain: &[u8]) {
    let mut sealed = plain.to_vec();
    let (salt, place) = ([9; 32], Place { number: 1, ..PLACE });
    seal(&keys.footers.for_object(&salt), Kind::FooterDetails, &place, &mut sealed);
    let lengths = [sealed.len() as u32, 0].map(u32::to_le_bytes).concat();
    let end = [&sealed[..], &salt, &lengths, footer::MAGIC].concat();
    let trailer = Trailer::decode(&end, HEADER_LEN + end.len() as u64, HEADER_LEN).expect("it is whole");
    if let Ok(details) = trailer.open_details(&keys.footers, &PLACE, &sealed, index) {
        assert!(index.holds == Holds::Nodes || details.len() == index.records.len());
    }
}

/// A chunk behind the authentication. The first byte says whether it is compressed, the next four how long it is.
pub fn chunk(bytes: &[u8]) {
    let Some(([zstd, len @ ..], packed)) = bytes.split_first_chunk::<5>() else { return };
    let plain_len = u32::from_le_bytes(*len) % (CHUNK_BLOCKS * BLOCK_SIZE + 1) as u32;
    if let Ok(plain) = codec::unpack(packed.to_vec(), zstd & 1 == 1, plain_len) {
        assert_eq!(plain.len(), plain_len as usize);
        let again = codec::pack(&plain);
        assert_eq!(codec::unpack(again.bytes, again.zstd, again.plain_len).expect("it was just packed"), plain);
    }
}

/// A part of a chunk behind the authentication, in the same form as [`chunk`].
pub fn part(bytes: &[u8]) {
    let Some(([zstd, len @ ..], packed)) = bytes.split_first_chunk::<5>() else { return };
    let plain_len = u32::from_le_bytes(*len) % (CHUNK_BLOCKS * BLOCK_SIZE + 1) as u32;
    let Ok(part) = Part::decode(Packed { bytes: packed.to_vec(), zstd: zstd & 1 == 1, plain_len }) else { return };
    assert_eq!(part.there.to_bytes(), packed[..2]);
    if let Ok(plain) = codec::unpack(part.packed.bytes, part.packed.zstd, plain_len) {
        assert_eq!(plain.len(), plain_len as usize);
        // What it has fills a chunk of that length, and nothing beyond.
        let (mut have, mut whole) = (Blocks::default(), vec![0; plain.len()]);
        have.fill(&mut whole, part.there, &plain);
        let blocks = plain.chunks(BLOCK_SIZE as usize).zip(whole.chunks(BLOCK_SIZE as usize)).enumerate();
        for (n, (from, to)) in blocks {
            assert_eq!(have.has(n), part.there.has(n));
            assert!(if have.has(n) { from == to } else { to.iter().all(|byte| *byte == 0) });
        }
    }
}

/// The names of objects that a store lists, and the names that people give.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(sequence) = names::sequence(text) {
        assert_eq!(format!("{sequence:012}"), text);
    }
    if let Some((segment, generation)) = names::segment_name(text) {
        let name = names::segment(Folder([0; 8]), Folder([0; 8]), segment, generation);
        assert_eq!(name.filename(), Some(text));
    }
    if let Some(folder) = Folder::parse(text) {
        assert_eq!(folder.hex(), text);
    }
    if let Ok(tenant) = text.parse::<Tenant>() {
        tenant.folder(&RepositoryKeys::new(&Key::from_bytes([7; 32])));
    }
}

/// What an honest writer stores, by target, in the form that it takes.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let id = RepositoryId::from_bytes([1; 16]);
    let key_file = Secret::KeyFile(KeyFile::random());
    let key_slot = Slot::wrap(&Key::from_bytes([7; 32]), &key_file, id, Effort::Measured).expect("it wraps");
    let packed = |text: &str| zstd::bulk::compress(text.as_bytes(), 3).expect("it compresses");
    let text = b"remora ".repeat(100);
    let compressed = codec::pack(&text).bytes;
    let chunk = |zstd: u8, bytes: &[u8]| [&[zstd], &(text.len() as u32).to_le_bytes()[..], bytes].concat();
    vec![
        ("vault_descriptor", "descriptor", Descriptor::new(id, Timestamp::UNIX_EPOCH).encode()),
        ("vault_slot", "passphrase", Slot::forged(PASSPHRASE_SLOT.as_bytes()).expect("it is one").encode()),
        ("vault_slot", "key-file", key_slot.encode()),
        ("vault_manifest", "break", packed(BREAK)),
        ("vault_manifest", "lost", packed(LOST)),
        ("vault_manifest", "point", packed(POINT)),
        ("vault_manifest", "tombstone", packed(TOMBSTONE)),
        ("vault_node", "leaf", [&9_u16.to_le_bytes()[..], &leaf().encode()].concat()),
        ("vault_node", "inner", [&3_u16.to_le_bytes()[..], &inner().encode()].concat()),
        ("vault_footer", "stored", stored_footer()),
        ("vault_footer", "index-and-details", index_and_details()),
        ("vault_chunk", "compressed", chunk(1, &compressed)),
        ("vault_chunk", "raw", chunk(0, &text)),
        ("vault_part", "compressed", chunk(1, &[&[5, 0], &compressed[..]].concat())),
        ("vault_part", "raw", chunk(0, &[&[1, 0], &text[..]].concat())),
        ("vault_name", "manifest", b"000000000042".to_vec()),
        ("vault_name", "segment", b"000102030405060708090a0b0c0d0e0f.3".to_vec()),
        ("vault_name", "folder", b"0011223344556677".to_vec()),
    ]
}

const PASSPHRASE_SLOT: &str = r#"{"created":"1970-01-01T00:00:00Z","opens_by":{"passphrase":{"cost":{"memory_kib":64,
"passes":1,"lanes":1},"salt":"000102030405060708090a0b0c0d0e0f"}},"wrapped":"00","checksum":""}"#;

const BREAK: &str = r#"{"vm":"a","written":"1970-01-01T00:00:00Z","session":"00000000000000000000000000000000","tombstone":0,
"entry":{"break":{"time":"1970-01-01T00:00:00Z","path":"/d","reason":"r"}}}"#;

const LOST: &str = r#"{"vm":"a","written":"1970-01-01T00:00:00Z","session":"00000000000000000000000000000000","tombstone":0,
"entry":{"lost":{"time":"1970-01-01T00:00:00Z","segments":["0102030405060708090a0b0c0d0e0f10"]}}}"#;

const TOMBSTONE: &str = r#"{"vm":"a","written":"1970-01-01T00:00:00Z","session":"00000000000000000000000000000000",
"tombstone":2,"entry":{"tombstone":{"dropped":[[1,2],[5,9]],"ended":["0102030405060708090a0b0c0d0e0f10"],
"holds":{"4":"1970-01-01T00:00:00Z"}}}}"#;

const POINT: &str = r#"{"vm":"a","written":"1970-01-01T00:00:00Z","session":"0102030405060708090a0b0c0d0e0f10","tombstone":0,
"entry":{"point":{"point":{"id":"0011223344556677-1","repository":"01010101010101010101010101010101","vm":"a",
"time":"1970-01-01T00:00:00Z","parent":null,"decision":"full","reason":"r","quiesced":"skipped","disks":[{"name":"vda",
"size":1,"identity":{"vm_uuid":"u","path":"/d","inode":null,"data_file":null},
"lineage":"01010101010101010101010101010101","checkpoint":null,"instance":null,"read_in_full":"1970-01-01T00:00:00Z",
"decision":"full","reason":"r","read":1,"stored":1,"rewritten":0}],"stored":1,"definition":"<domain/>","tool":"t"},
"parent_hash":null,"block_size":65536,"maps":[{"root":{"segment":"01010101010101010101010101010101","number":0}}],
"segments":[{"id":"01010101010101010101010101010101","holds":"chunks","len":1}]}}}"#;

fn record(segment: u8, number: u32) -> RecordRef {
    RecordRef { segment: SegmentId([segment; 16]), number }
}

fn leaf() -> Leaf {
    Leaf::from_runs([
        Run { start: 0, count: 4, target: Target::Zero },
        Run { start: 4, count: 5, target: Target::Chunk { chunk: record(1, 7), first: 2 } },
        Run { start: 9, count: 1, target: Target::Chunk { chunk: record(2, 900), first: 15 } },
    ])
}

fn inner() -> Inner {
    let node = |segment| Child::Node(record(segment, u32::from(segment)));
    Inner { children: vec![node(1), Child::Zero, node(2), node(1)] }
}

fn stored_footer() -> Vec<u8> {
    let keys = TenantKeys::new(&Key::from_bytes([7; 32]));
    let mut builder = Builder::new(Holds::Chunks, &keys, PLACE.repository, PLACE.tenant);
    for n in 0..3 {
        builder.append_chunk(codec::pack(&[n; 100]), Digest([n; 16]), vec![Digest([n + 1; 16])]);
    }
    let object: Vec<u8> = builder.finish(&keys).payload.into_iter().flatten().collect();
    object[HEADER_LEN as usize..].to_vec()
}

fn index_and_details() -> Vec<u8> {
    let record = |number, offset| footer::Record { number, offset, stored_len: 50, plain_len: 70_000, zstd: true };
    let records = vec![record(0, HEADER_LEN), record(3, HEADER_LEN + 50)];
    let index = Index { holds: Holds::Chunks, salt: [5; 32], records }.encode();
    // Of each chunk its id and two digests.
    [&(index.len() as u16).to_le_bytes()[..], &index, &[6; 16 * 3 * 2]].concat()
}
