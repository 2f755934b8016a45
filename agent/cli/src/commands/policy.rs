//! `remora policy`: the host of the agent, and its folder of documents, without the agent.

mod explain;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind, Result};
use remora_plugins::cases::{self, CaseResult};
use remora_plugins::documents::Target;
use remora_plugins::set::{Active, Generation, ModuleInForce, PolicyFile, Snapshot};
use serde::Serialize;

use crate::args::PolicyCommand;
use crate::context::Context;
use crate::output::{print, printable};

pub(super) async fn run(context: &Context, command: PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Lint { path } => lint(context, &path),
        PolicyCommand::Test { file } => test(context, &file).await,
        PolicyCommand::Explain(args) => explain::run(context, &args).await,
    }
}

/// The policies of a folder or of one document.
fn load(context: &Context, path: &Path) -> Result<Generation> {
    let snapshot = if path.is_dir() { Snapshot::read(path)? } else { Snapshot::of_file(path)? };
    if snapshot.documents.is_empty() && snapshot.unreadable.is_empty() {
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
    only_on: Option<Home>,
    modules: Vec<ModuleInForce>,
    error: Option<String>,
}

/// Where alone something is done by a policy.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Home {
    Kubernetes,
    Libvirt,
}

impl Home {
    /// None of a policy that is for both, as far as its document tells.
    fn of(active: &Active) -> Option<Self> {
        let Active::Backup(policy) = active else { return None };
        match &policy.target {
            // Which repository there is, and what movers keep in a form of their own, only a libvirt host knows.
            None | Some(Target::Mover(_)) => Some(Self::Libvirt),
            Some(Target::Repository(_)) => policy.scratch_class.as_ref().map(|_| Self::Kubernetes),
        }
    }

    /// In brackets, behind what is said of the policy.
    const fn why(self) -> &'static str {
        match self {
            Self::Kubernetes => " (on Kubernetes: target.scratch is nothing to a libvirt host)",
            Self::Libvirt => " (on a libvirt host: it has no target.repository)",
        }
    }
}

fn lint(context: &Context, path: &Path) -> Result<()> {
    let generation = load(context, path)?;
    let file = |file: &Arc<PolicyFile>| LintedFile {
        file: file.file.clone(),
        policy: file.active.as_ref().map(|active| active.name().to_owned()),
        only_on: file.active.as_ref().and_then(Home::of),
        modules: file.active.as_ref().map(Active::modules).unwrap_or_default(),
        error: file.broken.as_ref().map(|error| error.chain()),
    };
    let linted = Linted { files: generation.files.iter().map(file).collect() };
    print(context.format(), &linted, lint_text)?;
    all_good(&generation)
}

/// Fails if a file is broken.
fn all_good(generation: &Generation) -> Result<()> {
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
            (None, policy) => {
                let only = file.only_on.map(Home::why).unwrap_or_default();
                format!("{}: {} is good{only}", file.file, policy.as_deref().unwrap_or("it"))
            }
        });
        lines.extend(file.modules.iter().map(|module| {
            let facts = module.facts.iter().map(|(name, value)| format!(", {} {}", printable(name), printable(value)));
            let short: String = module.digest.to_string().chars().take(12).collect();
            format!("  {}: {short}, {}{}", module.field, module.interface, facts.collect::<Vec<_>>().concat())
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
