//! What was found: a check for each thing that must hold, and figures.

use serde::Serialize;

use crate::host::Digest;

/// What a trial found. The shape is a contract: `docs/cli.md` has it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The component's digest.
    pub digest: Digest,
    /// What it exports, as `wit/` names it.
    pub exports: Vec<String>,
    /// The version of the host that tried it.
    pub host: &'static str,
    /// What makes the random questions the same ones again.
    pub seed: u64,
    /// How many checks it passed.
    pub passed: usize,
    /// How many it failed.
    pub failed: usize,
    /// How many could not be made.
    pub skipped: usize,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// How long things took, and how large they are.
    pub figures: Vec<Figure>,
}

impl Report {
    /// How many figures are beyond their budgets.
    pub fn over(&self) -> usize {
        self.figures.iter().filter(|figure| figure.over).count()
    }
}

/// Something that must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// Why not, or why it was not tried.
    pub why: Option<String>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be tried, or does not apply.
    Skipped,
}

/// A number. One beyond its budget is a finding to look at; a busy machine may be why, so it fails no check. Whoever is strict
/// looks at [`Report::over`].
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of what.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of which unit.
    pub unit: &'static str,
    /// How much it should be at most, if there is such a thing.
    pub budget: Option<f64>,
    /// Whether it is more than that.
    pub over: bool,
}

/// What is being found.
#[derive(Default)]
pub(crate) struct Findings {
    checks: Vec<Check>,
    figures: Vec<Figure>,
}

impl Findings {
    /// Notes whether something holds; if not, why.
    pub(crate) fn note(&mut self, name: impl Into<String>, holds: Result<(), String>) {
        let outcome = if holds.is_ok() { Outcome::Passed } else { Outcome::Failed };
        self.checks.push(Check { name: name.into(), outcome, why: holds.err() });
    }

    /// Notes that something was not tried.
    pub(crate) fn skip(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.checks.push(Check { name: name.into(), outcome: Outcome::Skipped, why: Some(why.into()) });
    }

    /// Notes a number.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str, budget: Option<f64>) {
        let over = budget.is_some_and(|budget| value > budget);
        self.figures.push(Figure { name: name.into(), value, unit, budget, over });
    }

    /// Notes how large a component is.
    #[expect(clippy::cast_precision_loss, reason = "no component has 2^52 bytes")]
    pub(crate) fn size(&mut self, component: &[u8]) {
        self.figure("size", component.len() as f64, "bytes", None);
    }

    /// Whether nothing was found wrong so far.
    pub(crate) fn sound(&self) -> bool {
        !self.checks.iter().any(|check| check.outcome == Outcome::Failed)
    }

    pub(crate) fn report(self, digest: Digest, exports: Vec<String>, seed: u64) -> Report {
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        Report {
            digest,
            exports,
            host: concat!("remora ", env!("CARGO_PKG_VERSION")),
            seed,
            passed: count(Outcome::Passed),
            failed: count(Outcome::Failed),
            skipped: count(Outcome::Skipped),
            checks: self.checks,
            figures: self.figures,
        }
    }
}
