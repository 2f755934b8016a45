//! What was good stays in force while its document is broken, and grows stale.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use remora_core::policy::{Select, VmFacts};
use remora_core::{Error, ErrorKind, VmName};
use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{Host, builtins};

use super::{ACCESS, NIGHTLY, code, errors, next, now};
use crate::components::host;

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_version_and_hinders_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let nightly = folder.path().join("nightly.yaml");
    fs::write(&nightly, NIGHTLY).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let good = next(&Generation::default(), &host, folder.path(), now());
    let minute = SignedDuration::from_mins(1);

    // Both settings that are wrong are told, each on its line; the neighbour changes all the same.
    let broken = NIGHTLY.replace("names: ['db-*']", "names: ['db-{'], matchExpressions: [{key: a, operator: In}]");
    fs::write(&nightly, &broken).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS.replace("[root]", "[admin]")).unwrap();
    let stale = next(&good, &host, folder.path(), now() + minute);
    let told = errors(&stale);
    assert!(told[0].contains("nightly.yaml, line 3: select.settings.names.0"), "{told:?}");
    assert!(told[0].contains("select.settings.matchExpressions.0.values"), "{told:?}");
    assert!(code(&stale, "admin", "/x", now()).0);
    let (policy, since) = stale.backups().next().unwrap();
    assert_eq!(since, Some(now() + minute));
    let vms = ["db-1", "web-1"].map(|name| VmFacts::named(VmName::new(name).unwrap()));
    let answers = policy.select.select(&vms).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false]);

    // As broken later: no younger. Repaired: in force again. Gone: gone.
    let still = next(&stale, &host, folder.path(), now() + minute * 2);
    assert_eq!(still.backups().next().unwrap().1, Some(now() + minute));
    fs::write(&nightly, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let repaired = next(&still, &host, folder.path(), now() + minute * 3);
    assert_eq!((errors(&repaired).len(), repaired.backups().next().unwrap().1), (0, None));
    assert!(!repaired.backups().next().unwrap().0.select.select(&vms).await.unwrap()[0].selected);
    fs::remove_file(&nightly).unwrap();
    assert_eq!(next(&repaired, &host, folder.path(), now()).backups().count(), 0);
}

#[test]
fn a_stale_access_policy_denies_after_its_time_and_one_that_was_never_good_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let file = folder.path().join("access.yaml");
    fs::write(&file, ACCESS).unwrap();
    let good = next(&Generation::default(), &host, folder.path(), now());
    fs::write(&file, ACCESS.replace("maxStaleness", "maxstaleness")).unwrap();
    let stale = next(&good, &host, folder.path(), now());
    let hour = SignedDuration::from_hours(1);
    assert!(code(&stale, "root", "/x", now() + hour).0);
    assert_eq!(code(&stale, "root", "/x", now() + hour + hour), (false, "stale-policy".into()));
    // It was broken when the clock was ahead.
    assert_eq!(code(&stale, "root", "/x", now() - hour - hour), (false, "stale-policy".into()));
    // A second policy that never was good: it may have been meant to deny.
    fs::write(&file, ACCESS).unwrap();
    fs::write(folder.path().join("more.yaml"), ACCESS.replace("name: files", "name: more").replace("paths", "path"))
        .unwrap();
    let half = next(&good, &host, folder.path(), now());
    assert_eq!(code(&half, "root", "/x", now()), (false, "broken-policy".into()));
    // So may one of which nobody can say what it is.
    for unclear in
        ["kind: AccesPolicy\nname: more\n", "", "kind:\n", "name: BackupPolicy\n", "kind: BackupPolicy\nkind: Acces\n"]
    {
        fs::write(folder.path().join("more.yaml"), unclear).unwrap();
        let denied = code(&next(&good, &host, folder.path(), now()), "root", "/x", now());
        assert_eq!(denied, (false, "broken-policy".into()), "{unclear:?}");
    }
    // A broken backup policy denies nobody anything, however broken.
    for backup in ["kind: BackupPolicy\nname: x\n", "name: [\nkind: BackupPolicy  # of the night\n"] {
        fs::write(folder.path().join("more.yaml"), backup).unwrap();
        assert!(code(&next(&good, &host, folder.path(), now()), "root", "/x", now()).0, "{backup:?}");
    }
}

#[test]
fn what_is_in_force_grows_stale_while_the_folder_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let hour = SignedDuration::from_hours(1);
    let good = next(&Generation::default(), &host, folder.path(), now() - hour);
    let lost = good.unreadable(Error::new(ErrorKind::Failed, "the disk is gone"), now());
    assert_eq!(lost.number, good.number + 1);
    assert_eq!(lost.backups().next().unwrap().1, Some(now()));
    assert!(code(&lost, "root", "/x", now() + hour).0);
    assert_eq!(code(&lost, "root", "/x", now() + hour + hour), (false, "stale-policy".into()));
    let found = next(&lost, &host, folder.path(), now() + hour);
    assert_eq!((errors(&found).len(), found.backups().next().unwrap().1), (0, None));
    assert!(code(&found, "root", "/x", now() + hour + hour).0);
}

/// The agent is restarted while a document is broken: what was good before, with its module, is in force.
#[tokio::test]
async fn last_good_versions_outlive_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let kept = Kept::new(kept.path().join("kept"));
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    fs::write(folder.path().join("mine.wasm"), labels).unwrap();
    let nightly = folder.path().join("nightly.yaml");
    fs::write(&nightly, NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    let host = host();
    let restarted = |host: &Host, now| {
        let none = Generation::default();
        none.next_kept(host, &Snapshot::read(folder.path()).unwrap(), &kept, now)
    };
    assert_eq!(errors(&restarted(&host, now())), [""; 0]);
    fs::write(&nightly, "kind: BackupPolicy\n").unwrap();
    fs::remove_file(folder.path().join("mine.wasm")).unwrap();
    let generation = restarted(&host, Timestamp::now());
    assert_eq!(errors(&generation).len(), 1);
    let (policy, since) = generation.backups().next().unwrap();
    assert!(since.is_some());
    let vm = VmFacts::named(VmName::new("db-1").unwrap());
    assert!(policy.select.select(&[vm]).await.unwrap()[0].selected);
    // What is removed is not kept.
    fs::remove_file(&nightly).unwrap();
    restarted(&host, Timestamp::now());
    fs::write(&nightly, "kind: BackupPolicy\n").unwrap();
    assert_eq!(restarted(&host, Timestamp::now()).backups().count(), 0);
}
