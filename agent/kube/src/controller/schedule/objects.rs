//! The `BackupRun` of what is due.

use std::time::Duration;

use remora_core::point;

use super::DueRun;
use super::history::POLICY_LABEL;
use crate::controller::objects::managed;
use crate::kubevirt::hashed;
use crate::resources::{BackupRun, BackupRunSpec, Mode, Quiesce, RepositoryReference};

/// When the run was to start.
const DUE: &str = "remora.dev/due";

/// How much of the machine's name is shown in the run's: there is room for 253 bytes in all.
const SHOWN: usize = 150;

/// The run, which stores into a Repository of remora's namespace.
pub(super) fn run(due: &DueRun, namespace: &str) -> BackupRun {
    let spec = BackupRunSpec {
        virtual_machine: due.vm.short_name().into(),
        repository: RepositoryReference { name: due.repository.clone(), namespace: Some(namespace.into()) },
        mode: Mode::Auto,
        quiesce: match due.quiesce {
            point::Quiesce::Preferred => Quiesce::Preferred,
            point::Quiesce::Required => Quiesce::Required,
            point::Quiesce::Never => Quiesce::Never,
        },
        scratch: due.scratch.clone(),
        deadline: due.deadline.map_or_else(|| "4h".to_owned(), written),
        verify: due.verify,
        cancel: false,
    };
    let mut run = BackupRun::new(&name(due), spec);
    run.metadata.namespace = Some(due.vm.namespace.clone());
    let mut labels = managed();
    labels.insert(POLICY_LABEL.into(), due.policy.clone());
    run.metadata.labels = Some(labels);
    run.metadata.annotations = Some([(DUE.to_owned(), due.start.to_string())].into());
    run
}

/// As a `BackupRun` has it.
fn written(length: Duration) -> String {
    let seconds = length.as_secs();
    match (seconds / 60, seconds % 60) {
        (minutes, 0) if minutes % 60 == 0 => format!("{}h", minutes / 60),
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// What nobody would choose for another run: of the machine, the policy, and what it follows.
fn name(due: &DueRun) -> String {
    let hasher = blake3::Hasher::new_derive_key("remora kubernetes scheduled runs");
    let after = due.after.to_string();
    let follows = hashed(hasher, &[due.policy.as_bytes(), due.vm.name.as_str().as_bytes(), after.as_bytes()], 6);
    let mut name = String::new();
    for part in [cut(due.vm.short_name(), SHOWN), due.policy.as_str()] {
        let plain = part.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        for word in plain.split('-').filter(|word| !word.is_empty()) {
            name.push_str(word);
            name.push('-');
        }
    }
    name + &follows
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use remora_core::VmName;
    use remora_core::policy::{VmFacts, Word};

    use super::*;
    use crate::controller::testing::at;
    use crate::resources::{ScratchSpec, Verify};

    fn due(policy: &str, machine: &str, after: i64) -> DueRun {
        let facts = VmFacts::named(VmName::new(format!("shop/{machine}")).expect("a name"));
        DueRun {
            policy: policy.into(),
            vm: VmFacts { namespace: "shop".into(), ..facts },
            after: at(after),
            start: at(9000),
            word: Word::default(),
            repository: "offsite".into(),
            quiesce: point::Quiesce::Preferred,
            scratch: ScratchSpec::default(),
            deadline: None,
            verify: Verify::All,
        }
    }

    #[test]
    fn a_run_is_named_after_what_it_follows_and_not_after_who_makes_it_when() {
        let first = name(&due("nightly", "web", 1000));
        assert!(first.starts_with("web-nightly-"), "{first}");
        assert_eq!(name(&DueRun { start: at(1), ..due("nightly", "web", 1000) }), first);
        for other in [due("nightly", "web", 1001), due("hourly", "web", 1000), due("nightly", "db", 1000)] {
            assert_ne!(name(&other), first);
        }
        // One that is cut into the same words is another one all the same.
        assert_ne!(name(&due("b", "a-b", 1)), name(&due("b-b", "a", 1)));
    }

    #[test]
    fn every_name_of_a_policy_and_of_a_machine_makes_a_name_of_an_object() {
        let long = "m".repeat(253);
        for (policy, machine) in [("Night_ly.2", "web.two"), ("...", "a"), ("x", long.as_str()), ("ä", "b")] {
            let name = name(&due(policy, machine, 1));
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(plain && name.len() < 253 && !name.starts_with('-') && !name.contains("--"), "{name}");
        }
    }

    #[test]
    fn a_run_says_who_asked_for_it_and_stores_into_the_administrators_repository() {
        let run = run(&due("nightly", "web", 1000), "remora");
        assert_eq!(run.spec.virtual_machine, "web");
        assert_eq!(run.spec.repository.namespace.as_deref(), Some("remora"));
        assert_eq!((run.metadata.namespace.as_deref(), run.spec.verify), (Some("shop"), Verify::All));
        assert_eq!(crate::controller::schedule::history::policy(&run), Some("nightly"));
    }

    #[test]
    fn a_run_has_the_time_that_is_asked_for_and_else_four_hours() {
        for (seconds, text) in [(72 * 3600, "72h"), (5400, "90m"), (71 * 3600 + 60, "4261m"), (61, "1m1s")] {
            let due = DueRun { deadline: Some(Duration::from_secs(seconds)), ..due("nightly", "web", 1000) };
            assert_eq!(run(&due, "remora").spec.deadline, text);
        }
        assert_eq!(run(&due("nightly", "web", 1000), "remora").spec.deadline, "4h");
    }

    #[test]
    fn a_run_has_the_scratch_that_is_asked_for() {
        let fast = ScratchSpec { storage_class_name: "fast".into() };
        for scratch in [ScratchSpec::default(), fast] {
            let due = DueRun { scratch: scratch.clone(), ..due("nightly", "web", 1000) };
            assert_eq!(run(&due, "remora").spec.scratch, scratch);
        }
    }
}
