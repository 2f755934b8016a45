//! Who can open a repository, as people change it.

use std::fs;
use std::path::{Path, PathBuf};

use remora_tests::{Lab, PASSPHRASE, Remora};
use serde_json::Value;

use crate::documented::the_documented;

/// A key file, or a file with a passphrase.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Lab::shared().scratch(name).join("file");
    fs::write(&path, text).unwrap();
    path
}

fn opens_with_key(remora: &Remora, key: &Path) -> i32 {
    remora.clone().without("REMORA_PASSPHRASE").with("REMORA_KEY_FILE", key).run(["points"]).code()
}

fn opens_with_passphrase(remora: &Remora, passphrase: &str) -> i32 {
    remora.clone().without("REMORA_KEY_FILE").with("REMORA_PASSPHRASE", passphrase).run(["points"]).code()
}

fn kinds(slots: &Value) -> Vec<(&str, bool)> {
    let kind = |slot: &'_ Value| slot["current"].as_bool().unwrap();
    slots.as_array().unwrap().iter().map(|slot| (slot["kind"].as_str().unwrap(), kind(slot))).collect()
}

#[test]
fn passphrases_and_key_files_come_and_go_and_one_always_opens() {
    let lab = Lab::shared();
    let remora = Remora::init_with_passphrase(lab);
    let key = lab.scratch("generated").join("key");
    let key_text = key.to_str().unwrap();
    let generated = remora.json(["key", "generate", key_text]);
    the_documented("remora key generate FILE").assert_of(&generated);
    assert_eq!(generated["path"], key_text);
    remora.fails(["key", "generate", key_text], 4, "key");
    assert_eq!(opens_with_key(&remora, &key), 5);

    let added = remora.json(["key", "add", "--new-key-file", key_text]);
    the_documented("remora key change-passphrase").assert_of(&added);
    assert!(added["added"].is_string() && added["removed"].is_null(), "{added}");
    assert_eq!(opens_with_key(&remora, &key), 0);
    let slots = remora.json(["key", "list"]);
    the_documented("remora key list").assert_of(&slots);
    assert_eq!(kinds(&slots), [("passphrase", true), ("key-file", false)], "{slots:#}");
    for slot in slots.as_array().unwrap() {
        let keys: Vec<_> = slot.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["created", "current", "id", "kind", "unusable"], "{slot}");
    }

    // The slot that opens it now cannot go; whoever opens it otherwise can remove it.
    let first = slots[0]["id"].as_str().unwrap();
    remora.fails(["key", "remove", first], 11, "opened the repository");
    remora.fails(["key", "remove", "0011223344556677"], 3, "0011223344556677");
    let new = file("new passphrase", "a new one\n");
    let new = new.to_str().unwrap();
    let by_key = remora.clone().without("REMORA_PASSPHRASE").with("REMORA_KEY_FILE", &key);
    by_key.fails(["key", "change-passphrase", "--new-passphrase-file", new], 11, "key file");
    let changed = remora.json(["key", "change-passphrase", "--new-passphrase-file", new]);
    assert_eq!(changed["removed"], first);
    assert_eq!((opens_with_passphrase(&remora, PASSPHRASE), opens_with_passphrase(&remora, "a new one")), (5, 0));
    by_key.ok(["key", "remove", changed["added"].as_str().unwrap()]);
    assert_eq!((opens_with_passphrase(&remora, "a new one"), opens_with_key(&remora, &key)), (5, 0));
    let last = by_key.json(["key", "list"]);
    assert_eq!(kinds(&last), [("key-file", true)]);
    by_key.fails(["key", "remove", last[0]["id"].as_str().unwrap()], 11, "opened the repository");
}

#[test]
fn a_damaged_slot_is_listed_and_told_from_a_wrong_passphrase() {
    let remora = Remora::init_with_passphrase(Lab::shared());
    let slot = fs::read_dir(remora.repository().join("keys")).unwrap().next().unwrap().unwrap().path();
    let key = file("key", &"k".repeat(32));
    remora.ok(["key", "add", "--new-key-file", key.to_str().unwrap()]);
    let text = fs::read_to_string(&slot).unwrap();
    fs::write(&slot, text.replace("\"passes\": ", "\"passes\": 1")).unwrap();
    let name = slot.file_name().unwrap().to_str().unwrap();
    remora.fails(["points"], 7, name);
    assert_eq!(opens_with_key(&remora, &key), 0);
    let listed = remora.clone().without("REMORA_PASSPHRASE").with("REMORA_KEY_FILE", &key).json(["key", "list"]);
    let damaged = listed.as_array().unwrap().iter().find(|slot| slot["unusable"].is_string()).unwrap();
    assert_eq!(format!("{}.json", damaged["id"].as_str().unwrap()), name);
}
