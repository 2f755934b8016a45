//! `remora policy`: the host of the agent, and its folder of documents, without the agent.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use remora_core::policy::{Access, Action, Question, Schedule, Select, Subject, VmFacts};
use remora_core::{Error, ErrorKind, Result, VmName};
use remora_plugins::cases::{self, CaseResult};
use remora_plugins::decide::Outcome;
use remora_plugins::set::{Active, BackupPolicy, Generation, ModuleInForce, PolicyFile, Snapshot};
use serde::Serialize;

use crate::args::{ActionArg, Explain, PolicyCommand};
use crate::context::Context;
use crate::output::{print, printable, table};

pub(super) async fn run(context: &Context, command: PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Lint { path } => lint(context, &path),
        PolicyCommand::Test { file } => test(context, &file).await,
        PolicyCommand::Explain(args) => explain(context, args).await,
    }
}

/// The policies of a folder or of one document.
fn load(context: &Context, path: &Path) -> Result<Generation> {
    let snapshot = if path.is_dir() { Snapshot::read(path)? } else { Snapshot::of_file(path)? };
    if snapshot.documents.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no policy in {}", path.display()))
            .advise("Documents are files named *.yaml."));
    }
    Ok(Generation::default().next(&context.policy_host()?, &snapshot, Timestamp::now()))
}

/// The result of `lint`; the shape is a contract.
#[derive(Serialize)]
struct Linted {
    files: Vec<LintedFile>,
}

#[derive(Serialize)]
struct LintedFile {
    file: String,
    policy: Option<String>,
    modules: Vec<ModuleInForce>,
    error: Option<String>,
}

fn lint(context: &Context, path: &Path) -> Result<()> {
    let generation = load(context, path)?;
    let file = |file: &Arc<PolicyFile>| LintedFile {
        file: file.file.clone(),
        policy: file.active.as_ref().map(|active| active.name().to_owned()),
        modules: file.active.as_ref().map(Active::modules).unwrap_or_default(),
        error: file.broken.as_ref().map(|error| error.chain()),
    };
    let linted = Linted { files: generation.files.iter().map(file).collect() };
    print(context.format(), &linted, lint_text)?;
    match generation.broken().count() {
        0 => Ok(()),
        broken => {
            let advice = generation.broken().find_map(|(_, error)| error.advice()).unwrap_or("Mend the file.");
            Err(Error::new(ErrorKind::Invalid, format!("{broken} of {} files are broken", generation.files.len()))
                .advise(advice))
        }
    }
}

fn lint_text(linted: &Linted) -> String {
    let mut lines = Vec::new();
    for file in &linted.files {
        lines.push(match (&file.error, &file.policy) {
            (Some(error), _) => format!("{}: {}", file.file, printable(error)),
            (None, policy) => format!("{}: {} is good", file.file, policy.as_deref().unwrap_or("it")),
        });
        lines.extend(file.modules.iter().map(|module| {
            let facts = module.facts.iter().map(|(name, value)| format!(", {} {}", printable(name), printable(value)));
            let short: String = module.digest.to_string().chars().take(12).collect();
            format!("  {}: {short}{}", module.field, facts.collect::<Vec<_>>().concat())
        }));
    }
    lines.join("\n")
}

/// The result of `test`; the shape is a contract.
#[derive(Serialize)]
struct Tested {
    passed: usize,
    failed: usize,
    cases: Vec<CaseResult>,
}

async fn test(context: &Context, file: &Path) -> Result<()> {
    let cases = cases::run(&context.policy_host()?, file).await?;
    let failed = cases.iter().filter(|case| case.failed.is_some()).count();
    let tested = Tested { passed: cases.len() - failed, failed, cases };
    print(context.format(), &tested, |tested| {
        let case = |case: &CaseResult| match &case.failed {
            Some(why) => format!("FAILED {}: {}", printable(&case.name), printable(why)),
            None => format!("ok     {}", printable(&case.name)),
        };
        tested.cases.iter().map(case).collect::<Vec<_>>().join("\n")
    })?;
    match failed {
        0 => Ok(()),
        failed => Err(Error::new(ErrorKind::Failed, format!("{failed} of {} cases failed", tested.cases.len()))
            .advise("Change the policy, or what the case expects.")),
    }
}

/// The result of `explain`; the shape is a contract.
#[derive(Serialize)]
struct Explained {
    vm: VmName,
    backup: Vec<ExplainedBackup>,
    access: Option<Outcome>,
}

#[derive(Serialize)]
struct ExplainedBackup {
    policy: String,
    selected: bool,
    reason: String,
    start: Option<Timestamp>,
    start_reason: Option<String>,
}

async fn explain(context: &Context, args: Explain) -> Result<()> {
    let generation = load(context, &args.path)?;
    if let Some((_, error)) = generation.broken().next() {
        return Err(
            Error::new(error.kind(), error.chain()).advise("`remora policy lint` tells what is wrong with each.")
        );
    }
    let now = args.at.unwrap_or_else(Timestamp::now);
    let vm = VmFacts {
        name: args.vm.clone(),
        namespace: args.namespace.clone(),
        uid: String::new(),
        labels: args.labels.iter().cloned().collect(),
    };
    let mut backup = Vec::new();
    for (policy, _) in generation.backups() {
        backup.push(explain_backup(policy, &vm, now).await?);
    }
    let access = args.file.zip(args.user).and_then(|(path, user)| {
        let action = match args.action {
            ActionArg::List => Action::List,
            ActionArg::Stat => Action::Stat,
            ActionArg::Read => Action::Read,
        };
        let subject = Subject { user, groups: args.groups, grants: Vec::new() };
        let (point, point_time, path) = (String::new(), now, path.into_bytes());
        let request = Access { subject, action, vm, point, point_time, path, now, approvals: Vec::new() };
        generation.authorize(&[request], now).pop()
    });
    print(context.format(), &Explained { vm: args.vm, backup, access }, explain_text)
}

async fn explain_backup(policy: &BackupPolicy, vm: &VmFacts, now: Timestamp) -> Result<ExplainedBackup> {
    let selection = policy.select.select(std::slice::from_ref(vm)).await?.into_iter().next();
    let (selected, reason) = selection.map_or((false, String::new()), |answer| (answer.selected, answer.reason));
    let mut explained =
        ExplainedBackup { policy: policy.name.clone(), selected, reason, start: None, start_reason: None };
    if selected {
        let question = Question { vm: vm.clone(), now, after: now, seed: 0, runs: Vec::new() };
        if let Some(due) = policy.schedule.next(&[question]).await?.pop() {
            (explained.start, explained.start_reason) = (due.start, Some(due.reason));
        }
    }
    Ok(explained)
}

fn explain_text(explained: &Explained) -> String {
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
    text
}
