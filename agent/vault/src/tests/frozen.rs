//! The texts of format 1, field by field, as docs/format.md tells them. One that changes here wants a new format number, or
//! a field that whoever does not know it may leave alone.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::descriptor::{Descriptor, FORMAT};
use crate::immutable::Record;
use crate::init::Announced;
use crate::manifest::Manifest;
use crate::removals::Removal;
use crate::session::Session;
use crate::settings::Stored;
use crate::slot::Slot;

/// That this version reads a text, and writes the same.
fn assert_frozen<T: Serialize + DeserializeOwned>(text: &str) {
    let wanted: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), wanted);
}

#[test]
fn descriptors_and_slots_are_those_of_format_1() {
    assert_eq!(FORMAT, 1, "keep these tests for format 1, and add those of the new one");
    assert_frozen::<Descriptor>(
        r#"{"kind": "remora vault", "format": 1, "id": "01010101010101010101010101010101",
            "created": "2026-01-02T03:04:05.678Z", "checksum": "00"}"#,
    );
    assert_frozen::<Slot>(
        r#"{"created": "2026-01-02T03:04:05Z", "wrapped": "0aff", "checksum": "00", "opens_by": {"passphrase":
            {"cost": {"memory_kib": 65536, "passes": 3, "lanes": 1}, "salt": "000102030405060708090a0b0c0d0e0f"}}}"#,
    );
    assert_frozen::<Slot>(
        r#"{"created": "2026-01-02T03:04:05Z", "wrapped": "0aff", "checksum": "00", "opens_by": "key-file"}"#,
    );
    assert_frozen::<Removal>(r#"{"removes": "0102030405060708", "keeps": "1112131415161718", "checksum": "00"}"#);
    let announced = "01010101010101010101010101010101-0102030405060708-1112131415161718";
    assert!(Announced::parse(announced).is_some());
}

#[test]
fn entries_of_a_sequence_are_those_of_format_1() {
    let entry = |settings: &str, entry: &str| {
        format!(
            r#"{{"vm": "a", "written": "2026-01-02T03:04:05Z", "session": "0102030405060708090a0b0c0d0e0f10",
                "tombstone": 2, {settings} "entry": {entry}}}"#
        )
    };
    let point = r#"{"point": {
        "point": {"id": "0011223344556677-1", "repository": "01010101010101010101010101010101",
            "copy_of": "8899aabbccddeeff-7", "vm": "a", "time": "2026-01-02T03:04:05Z", "parent": "0011223344556677-0",
            "decision": "reread", "reason": "r", "quiesced": "frozen", "stored": 1, "definition": "<domain/>", "tool": "t",
            "disks": [{"name": "vda", "size": 1, "lineage": "01010101010101010101010101010101",
                "identity": {"vm_uuid": "u", "path": "/d", "inode": "1:2", "data_file": "/r 1:3"},
                "checkpoint": "remora-01010101010101010101010101010101-02020202020202020202020202020202",
                "instance": "i", "read_in_full": "2026-01-02T03:04:05Z", "decision": "incremental", "reason": "r",
                "read": 1, "stored": 1, "rewritten": 0}]},
        "parent_hash": "ab", "block_size": 65536,
        "maps": [{"root": {"segment": "01010101010101010101010101010101", "number": 9}}, {"root": null}],
        "segments": [{"id": "01010101010101010101010101010101", "holds": "chunks", "len": 1},
            {"id": "02020202020202020202020202020202", "holds": "nodes", "len": 2}]}}"#;
    let broken = r#"{"break": {"time": "2026-01-02T03:04:05Z", "path": "/d", "reason": "r"}}"#;
    let lost = r#"{"lost": {"time": "2026-01-02T03:04:05Z", "segments": ["01010101010101010101010101010101"]}}"#;
    let tombstone = r#"{"tombstone": {"dropped": [[1, 2], [5, 9]], "ended": ["0102030405060708090a0b0c0d0e0f10"],
        "holds": {"4": "2026-01-02T03:04:05Z"}}}"#;
    for (settings, kind) in [("", point), ("", broken), (r#""settings": 3,"#, lost), ("", tombstone)] {
        assert_frozen::<Manifest>(&entry(settings, kind));
    }
    assert_frozen::<Manifest>(&entry("", r#"{"tombstone": {"dropped": []}}"#));
}

#[test]
fn sessions_settings_and_locks_are_those_of_format_1() {
    assert_frozen::<Session>(
        r#"{"vm": "a", "parent": 3, "number": 4, "began": "2026-01-02T03:04:05Z", "beat": 5,
            "process": {"boot": "b", "namespaces": "n", "id": 6, "started": 7}}"#,
    );
    assert_frozen::<Session>(r#"{"vm": "a", "parent": null, "number": 1, "began": "2026-01-02T03:04:05Z", "beat": 0}"#);
    assert_frozen::<Stored>(r#"{"written": "2026-01-02T03:04:05Z", "immutable": 2592000}"#);
    assert_frozen::<Stored>(r#"{"written": "2026-01-02T03:04:05Z", "immutable": null}"#);
    assert_frozen::<Record>(r#"{"until": "2026-01-02T03:04:05Z", "settings": 3}"#);
}
