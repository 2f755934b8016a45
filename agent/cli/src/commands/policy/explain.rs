//! `remora policy explain`: what each policy says of a VM, of its points, and of a request for a file.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use remora_core::policy::{Access, Action, Approval, Question, Retention, Schedule, Select, Subject, VmFacts};
use remora_core::retention::{Fate, Rules, Verdict};
use remora_core::{Error, ErrorKind, PointId, Result, VmName};
use remora_engine::or_cancelled;
use remora_plugins::decide::Outcome;
use remora_plugins::movers::Dropping;
use remora_plugins::set::{BackupPolicy, PolicyFile};
use remora_vault::Mode;
use serde::Serialize;

use super::{all_good, load};
use crate::args::{ActionArg, Explain};
use crate::context::{Context, Repository};
use crate::output::{print, printable, table};

/// The result of `explain`; the shape is a contract.
#[derive(Serialize)]
struct Explained {
    vm: VmName,
    backup: Vec<ExplainedBackup>,
    access: Option<Outcome>,
    broken: Vec<BrokenFile>,
}

/// A file that nothing is explained of.
#[derive(Serialize)]
struct BrokenFile {
    file: String,
    error: String,
}

#[derive(Serialize)]
struct ExplainedBackup {
    policy: String,
    selected: bool,
    reason: String,
    start: Option<Timestamp>,
    start_reason: Option<String>,
    retention: Option<Vec<JudgedPoint>>,
}

/// What becomes of a point by one policy.
#[derive(Serialize)]
struct JudgedPoint {
    point: PointId,
    time: Timestamp,
    fate: Fate,
    reason: String,
}

pub(super) async fn run(context: &Context, args: &Explain) -> Result<()> {
    let generation = load(context, &args.path)?;
    let now = args.at.unwrap_or_else(Timestamp::now);
    let vm = VmFacts {
        name: args.vm.clone(),
        namespace: args.namespace.clone(),
        uid: String::new(),
        labels: args.labels.iter().cloned().collect(),
    };
    let repository = if args.points { Some(context.points().await?) } else { None };
    let mut backup = Vec::new();
    for (policy, _) in generation.backups() {
        let mut explained = explain_backup(policy, &vm, now).await?;
        if let Some(repository) = repository.as_ref().filter(|_| explained.selected) {
            explained.retention = Some(judged(context, repository, policy, &vm).await?);
        }
        backup.push(explained);
    }
    let access = request(args, vm, now).and_then(|request| generation.authorize(&[request], now).pop());
    let file = |(file, error): (&PolicyFile, &Error)| BrokenFile { file: file.file.clone(), error: error.chain() };
    let broken = generation.broken().map(file).collect();
    print(context.format(), &Explained { vm: args.vm.clone(), backup, access, broken }, text)?;
    all_good(&generation)
}

/// The request for a file, if one is asked about. Who consents to it does so now, and for an hour.
fn request(args: &Explain, vm: VmFacts, now: Timestamp) -> Option<Access> {
    let (path, user) = (args.file.clone()?, args.user.clone()?);
    let expires = now.checked_add(SignedDuration::from_hours(1)).unwrap_or(Timestamp::MAX);
    let approval =
        |user: &String| Approval { user: user.clone(), groups: args.approver_groups.clone(), granted: now, expires };
    let action = match args.action {
        ActionArg::List => Action::List,
        ActionArg::Stat => Action::Stat,
        ActionArg::Read => Action::Read,
    };
    Some(Access {
        subject: Subject { user, groups: args.groups.clone(), grants: args.grants.clone() },
        action,
        vm,
        point: String::new(),
        point_time: now,
        path: path.into_bytes(),
        now,
        approvals: args.approved_by.iter().map(approval).collect(),
    })
}

/// What would become of each point of a VM, of which nothing is dropped.
async fn pruned(repository: &Repository, vm: &VmName, rules: &dyn Retention) -> Result<Vec<Verdict>> {
    Ok(match repository {
        Repository::Vault(vault) => {
            let pruned = vault.prune(Some(vm), rules, Mode::DryRun).await?;
            pruned.into_iter().flat_map(|pruned| pruned.points).collect()
        }
        Repository::Volumes(volumes) => {
            let pruned = volumes.prune(Some(vm), rules, Dropping::DryRun).await?;
            pruned.into_iter().flat_map(|(_, points)| points).collect()
        }
    })
}

/// What a policy says of each point of the VM, by itself: what another one keeps stays. One without a retention keeps all.
async fn judged(
    context: &Context,
    repository: &Repository,
    policy: &BackupPolicy,
    vm: &VmFacts,
) -> Result<Vec<JudgedPoint>> {
    let rules: Box<dyn Retention> = match &policy.retention {
        Some(retention) => Box::new(retention.of_vm(vm.clone())),
        None => Box::new(Rules { last: u32::MAX, ..Rules::default() }),
    };
    let pruned = or_cancelled(&context.cancel, pruned(repository, &vm.name, &*rules)).await;
    let points = match pruned {
        // It has no point yet.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        pruned => pruned?,
    };
    let without = policy.retention.is_none();
    let judged = |Verdict { point, time, fate, reason }: Verdict| JudgedPoint {
        point,
        time,
        fate,
        reason: if without { "the policy has no retention: it keeps everything".into() } else { reason },
    };
    Ok(points.into_iter().map(judged).collect())
}

async fn explain_backup(policy: &BackupPolicy, vm: &VmFacts, now: Timestamp) -> Result<ExplainedBackup> {
    let selection = policy.select.select(std::slice::from_ref(vm)).await?.into_iter().next();
    let (selected, reason) = selection.map_or((false, String::new()), |answer| (answer.selected, answer.reason));
    let mut explained = ExplainedBackup {
        policy: policy.name.clone(),
        selected,
        reason,
        start: None,
        start_reason: None,
        retention: None,
    };
    if selected {
        let question = Question { vm: vm.clone(), now, after: now, seed: 0, runs: Vec::new() };
        if let Some(due) = policy.schedule.next(&[question]).await?.pop() {
            (explained.start, explained.start_reason) = (due.start, Some(due.reason));
        }
    }
    Ok(explained)
}

fn text(explained: &Explained) -> String {
    let mut rows = vec![["POLICY", "SELECTED", "WHY", "NEXT"].map(String::from)];
    rows.extend(explained.backup.iter().map(|backup| {
        [
            backup.policy.clone(),
            if backup.selected { "yes".into() } else { "no".into() },
            printable(&backup.reason),
            backup.start.map_or_else(|| "-".into(), |start| format!("{start:.0}")),
        ]
    }));
    let mut text = if explained.backup.is_empty() { String::new() } else { table(&rows) };
    text.push_str(&points_text(&explained.backup));
    if let Some(access) = &explained.access {
        let mut rows = vec![["POLICY", "MODULE", "MODE", "SAYS", "WHY"].map(String::from)];
        rows.extend(access.said.iter().map(|said| {
            [
                said.policy.clone(),
                said.module.clone(),
                format!("{:?}", said.mode).to_lowercase(),
                format!("{:?}", said.effect).to_lowercase(),
                printable(&said.reason),
            ]
        }));
        let verdict = if access.allowed { "It may be done" } else { "It may not be done" };
        text = format!("{text}\n{}\n{verdict}: {}.\n", table(&rows), printable(&access.code));
    }
    for broken in &explained.broken {
        writeln!(text, "{}: {}", broken.file, printable(&broken.error)).ok();
    }
    text
}

/// A row for each point and policy; nothing if nobody asked for points, or no policy selects the VM.
fn points_text(backup: &[ExplainedBackup]) -> String {
    let mut rows = vec![["POLICY", "POINT", "TIME", "FATE", "WHY"].map(String::from)];
    for explained in backup {
        rows.extend(explained.retention.iter().flatten().map(|point| {
            [
                explained.policy.clone(),
                point.point.to_string(),
                format!("{:.0}", point.time),
                if point.fate == Fate::Keep { "keep".into() } else { "drop".into() },
                printable(&point.reason),
            ]
        }));
    }
    let asked = backup.iter().any(|explained| explained.retention.is_some());
    match rows.len() {
        1 if asked => "\nThe repository has no point of the VM.\n".into(),
        1 => String::new(),
        _ => format!("\n{}", table(&rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_points_is_told_that_there_are_none() {
        let explained = |retention| ExplainedBackup {
            policy: "nightly".into(),
            selected: true,
            reason: String::new(),
            start: None,
            start_reason: None,
            retention,
        };
        assert_eq!(points_text(&[explained(Some(Vec::new()))]), "\nThe repository has no point of the VM.\n");
        assert_eq!(points_text(&[explained(None)]), "", "nobody asks");
    }
}
