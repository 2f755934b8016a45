//! A folder of policies, from one generation to the next.

#[path = "folder/decisions.rs"]
mod decisions;
#[path = "folder/reading.rs"]
mod reading;
#[path = "folder/stale.rs"]
mod stale;

use std::path::Path;

use jiff::Timestamp;
use remora_core::VmName;
use remora_core::policy::{Access, Action, Subject, VmFacts};
use remora_plugins::Host;
use remora_plugins::set::{Generation, Snapshot};

pub(crate) const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: builtin:labels, settings: {names: ['db-*']}}
schedule:  {module: builtin:cron, settings: {cron: 15 2 * * *}}
retention: {module: builtin:gfs, settings: {daily: 7}}
";

pub(crate) const ACCESS: &str = "\
kind: AccessPolicy
name: files
maxStaleness: 1h
authorize:
- {module: builtin:owners, settings: {users: [root]}}
- {module: builtin:paths, settings: {denyPaths: [/srv/hr/**]}}
- {module: builtin:paths, settings: {denyPaths: [/**]}, mode: shadow}
";

pub(crate) fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

pub(crate) fn next(before: &Generation, host: &Host, folder: &Path, now: Timestamp) -> Generation {
    before.next(host, &Snapshot::read(folder).unwrap(), now)
}

pub(crate) fn request(user: &str, path: &str) -> Access {
    Access {
        subject: Subject { user: user.into(), groups: Vec::new(), grants: Vec::new() },
        action: Action::Read,
        vm: VmFacts::named(VmName::new("vm").unwrap()),
        point: "0123456789abcdef-1".into(),
        point_time: now(),
        path: path.as_bytes().to_vec(),
        now: now(),
        approvals: Vec::new(),
    }
}

pub(crate) fn code(generation: &Generation, user: &str, path: &str, now: Timestamp) -> (bool, String) {
    let outcome = generation.authorize(&[request(user, path)], now).remove(0);
    (outcome.allowed, outcome.code)
}

pub(crate) fn errors(generation: &Generation) -> Vec<String> {
    generation.broken().map(|(_, error)| error.chain()).collect()
}
