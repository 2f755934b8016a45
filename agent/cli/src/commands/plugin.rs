//! `remora plugin`: the conformance kit, with the host of production, and folders to begin with.

mod new;
mod templates;

use std::collections::BTreeMap;
use std::path::Path;

use remora_core::{Error, ErrorKind, Result};
use remora_plugins::conformance::{self, Depth, Figure, Made, MoverTrial, Outcome, PolicyTrial, Report};
use remora_plugins::movers::named_secret;

use crate::args::{Plugin, PluginCommand};
use crate::context::Context;
use crate::output::{print, printable};

/// A component's file may be at most so large, and the host takes no larger one.
const LARGEST: u64 = 65 << 20;

pub(super) async fn run(context: &Context, command: PluginCommand) -> Result<()> {
    let (depth, args) = match command {
        PluginCommand::New(args) => return new::run(context, &args),
        PluginCommand::Check(args) => (Depth::Check, args),
        PluginCommand::Test(args) => (Depth::Test, args),
        PluginCommand::Bench(args) => (Depth::Bench, args),
    };
    let component = component(&args.file)?;
    let made = Made::of(&component).map_err(|error| error.within(args.file.display()))?;
    let report = match made {
        Made::Policy => conformance::policy(component, policy_trial(&args)?, depth).await,
        Made::Mover => conformance::mover(component, mover_trial(&args)?, depth).await,
    };
    let report = report?;
    if let Some(path) = &args.json {
        let json =
            serde_json::to_vec_pretty(&report).map_err(|e| Error::io("writing JSON", std::io::Error::other(e)))?;
        std::fs::write(path, json).map_err(|e| Error::io(format!("writing the report {}", path.display()), e))?;
    }
    print(context.format(), &report, text)?;
    match (report.failed, report.over()) {
        (0, over) if over > 0 && args.strict => {
            let what = format!("{over} of {} figures are over their budgets", report.figures.len());
            Err(Error::new(ErrorKind::Failed, what).advise(
                "Make the component quicker or smaller. A busy machine may be why: try again when it has nothing else to do, \
                 or without --strict.",
            ))
        }
        (0, _) => Ok(()),
        (failed, _) => Err(Error::new(ErrorKind::Failed, format!("{failed} of {} checks failed", report.checks.len()))
            .advise("docs/plugins.md says what each of them wants.")),
    }
}

fn policy_trial(args: &Plugin) -> Result<PolicyTrial> {
    if args.upstream.is_some() || !args.secrets.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "it is a policy, and --upstream and --secret are of movers"));
    }
    Ok(PolicyTrial {
        settings: settings(args)?,
        refused: args.refused.as_deref().map(text_of).transpose()?,
        cases: args.cases.clone(),
        seed: args.seed,
        questions: args.questions,
        program: None,
    })
}

fn mover_trial(args: &Plugin) -> Result<MoverTrial> {
    if args.refused.is_some() || !args.cases.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "it is a mover, and --refused and --cases are of policies"));
    }
    let mut secrets = BTreeMap::new();
    for (name, file) in &args.secrets {
        secrets.insert(name.clone(), named_secret(file)?);
    }
    Ok(MoverTrial {
        settings: settings(args)?,
        secrets,
        upstream: args.upstream.clone(),
        program: None,
        seed: args.seed,
    })
}

/// As JSON.
fn settings(args: &Plugin) -> Result<String> {
    let Some(path) = &args.settings else { return Ok("{}".into()) };
    conformance::settings_of(&text_of(path)?).map_err(|error| error.within(path.display()))
}

fn text_of(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("{} is no text", path.display())).because(e))
}

fn component(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is a folder, and no component", path.display()))
            .advise("Name the file NAME.wasm in it: the script `build` makes it in a folder of `remora plugin new`."));
    }
    read(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let named = || format!("reading {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io(named(), e))?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|e| Error::io(named(), e))?;
    Ok(bytes)
}

fn text(report: &Report) -> String {
    let mut lines: Vec<_> = report.exports.iter().map(|name| format!("{:<7}  {name}", "tried")).collect();
    for check in &report.checks {
        let why = check.why.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
        let outcome = match check.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        lines.push(format!("{outcome:<7}  {}{why}", printable(&check.name)));
    }
    lines.extend(report.figures.iter().map(figure));
    lines.join("\n")
}

fn figure(figure: &Figure) -> String {
    let budget = match figure.budget {
        Some(budget) if figure.over => format!(", OVER its budget of {budget}"),
        Some(budget) => format!(", within its budget of {budget}"),
        None => String::new(),
    };
    format!("{:<7}  {}: {:.1} {}{budget}", "figure", printable(&figure.name), figure.value, figure.unit)
}
