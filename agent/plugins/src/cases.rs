//! Golden cases: questions to policies, and the answers that they must give, in a YAML file beside the documents.
//!
//! ```yaml
//! kind: PolicyTest
//! policies: [nightly.yaml]
//! cases:
//! - name: the database is backed up
//!   select: {policy: nightly, vm: {name: db1, labels: {backup: nightly}}, expect: {selected: true}}
//! ```

use std::path::Path;

use jiff::Timestamp;
use remora_core::policy::{Access, Action, Approval, PastRun, Question, Retention, Schedule, Select, Subject, VmFacts};
use remora_core::retention::{Candidate, Fate};
use remora_core::{Error, ErrorKind, PointId, Result};
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::set::{BackupPolicy, Generation, Snapshot};
use crate::yaml;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTest {
    #[serde(rename = "kind")]
    _kind: CasesKind,
    policies: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
enum CasesKind {
    PolicyTest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    select: Option<SelectCase>,
    schedule: Option<ScheduleCase>,
    retention: Option<RetentionCase>,
    authorize: Option<AuthorizeCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectCase {
    policy: String,
    vm: VmFacts,
    expect: Selected,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selected {
    selected: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleCase {
    policy: String,
    vm: VmFacts,
    after: Timestamp,
    /// As `after` if it is not given.
    now: Option<Timestamp>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    runs: Vec<PastRun>,
    expect: Start,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    start: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionCase {
    policy: String,
    vm: VmFacts,
    now: Timestamp,
    /// The times of the points, oldest first.
    points: Vec<Timestamp>,
    expect: Kept,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    keep: Vec<Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizeCase {
    subject: Subject,
    action: Action,
    vm: VmFacts,
    path: String,
    now: Timestamp,
    #[serde(default)]
    approvals: Vec<Approval>,
    expect: Allowed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    allowed: bool,
    code: Option<String>,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// What was answered instead of what was expected; none if it is as expected.
    pub failed: Option<String>,
}

/// Runs the cases of a file by the policies that it names, which must all be good.
pub async fn run(host: &Host, file: &Path) -> Result<Vec<CaseResult>> {
    let named = || format!("the cases of {}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(named(), e))?;
    let cases: PolicyTest = yaml::read(&text).map_err(|fault| {
        let line = fault.line.unwrap_or_default();
        Error::new(ErrorKind::Invalid, format!("{}, line {line}: {}", file.display(), fault.brief()))
            .advise("docs/policies.md shows a file of cases.")
    })?;
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cases.cases.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("{}: it has no case", file.display()))
            .advise("docs/policies.md shows a file of cases."));
    }
    let mut snapshot = Snapshot { documents: std::collections::BTreeMap::new(), ..Snapshot::of_file(file)? };
    for policy in &cases.policies {
        // By its path: two folders may have files of one name.
        let read = Snapshot::of_file(&folder.join(policy))?.documents;
        snapshot.documents.extend(read.into_values().map(|text| (policy.clone(), text)));
    }
    let generation = Generation::default().next(host, &snapshot, Timestamp::now());
    if let Some((_, error)) = generation.broken().next() {
        let told = Error::new(error.kind(), error.chain());
        return Err(match error.advice() {
            Some(advice) => told.advise(advice),
            None => told,
        });
    }
    let mut results = Vec::new();
    for case in cases.cases {
        let failed = case.run(&generation).await.map_err(|error| error.within(format!("case {:?}", case.name)))?;
        results.push(CaseResult { name: case.name, failed });
    }
    Ok(results)
}

impl Case {
    async fn run(&self, generation: &Generation) -> Result<Option<String>> {
        match self {
            Self { select: Some(case), schedule: None, retention: None, authorize: None, .. } => {
                case.run(generation).await
            }
            Self { schedule: Some(case), select: None, retention: None, authorize: None, .. } => {
                case.run(generation).await
            }
            Self { retention: Some(case), select: None, schedule: None, authorize: None, .. } => {
                case.run(generation).await
            }
            Self { authorize: Some(case), select: None, schedule: None, retention: None, .. } => {
                Ok(case.run(generation))
            }
            _ => Err(Error::new(
                ErrorKind::Invalid,
                "it asks for none or several of select, schedule, retention, authorize",
            )
            .advise("Give exactly one.")),
        }
    }
}

fn policy<'a>(generation: &'a Generation, name: &str) -> Result<&'a BackupPolicy> {
    let found = generation.backups().find(|(policy, _)| policy.name == name);
    found.map(|(policy, _)| &**policy).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no backup policy {name:?}"))
            .advise("List its file under `policies`.")
    })
}

fn unlike(expected: impl std::fmt::Display, got: impl std::fmt::Display, reason: &str) -> String {
    format!("expected {expected}, got {got} ({reason})")
}

impl SelectCase {
    async fn run(&self, generation: &Generation) -> Result<Option<String>> {
        let answers = policy(generation, &self.policy)?.select.select(std::slice::from_ref(&self.vm)).await?;
        let wrong = answers.into_iter().find(|answer| answer.selected != self.expect.selected);
        Ok(wrong.map(|answer| {
            unlike(
                format_args!("selected: {}", self.expect.selected),
                format_args!("selected: {}", answer.selected),
                &answer.reason,
            )
        }))
    }
}

impl ScheduleCase {
    async fn run(&self, generation: &Generation) -> Result<Option<String>> {
        let question = Question {
            vm: self.vm.clone(),
            now: self.now.unwrap_or(self.after),
            after: self.after,
            seed: self.seed,
            runs: self.runs.clone(),
        };
        let answers = policy(generation, &self.policy)?.schedule.next(&[question]).await?;
        let text = |start: Option<Timestamp>| start.map_or("never".to_owned(), |start| format!("start: {start}"));
        let wrong = answers.into_iter().find(|answer| answer.start != self.expect.start);
        Ok(wrong.map(|answer| unlike(text(self.expect.start), text(answer.start), &answer.reason)))
    }
}

impl RetentionCase {
    async fn run(&self, generation: &Generation) -> Result<Option<String>> {
        let policy = policy(generation, &self.policy)?;
        let Some(retention) = &policy.retention else {
            return Ok(Some(format!("the policy {} has no retention", policy.name)));
        };
        let candidate = |(n, time): (u64, &Timestamp)| -> Result<Candidate> {
            Ok(Candidate { point: PointId::new("0000000000000000", n)?, time: *time, held: None })
        };
        let points: Vec<_> = (1..).zip(&self.points).map(candidate).collect::<Result<_>>()?;
        let verdicts = retention.of_vm(self.vm.clone()).judge(&self.vm.name, &points, self.now).await?;
        let kept: Vec<_> = verdicts.iter().filter(|v| v.fate == Fate::Keep).map(|v| v.time).collect();
        let text = |times: &[Timestamp]| {
            let times: Vec<_> = times.iter().map(Timestamp::to_string).collect();
            format!("keep: [{}]", times.join(", "))
        };
        let reasons: Vec<_> = verdicts.iter().map(|v| format!("{}: {}", v.time, v.reason)).collect();
        Ok((kept != self.expect.keep).then(|| unlike(text(&self.expect.keep), text(&kept), &reasons.join("; "))))
    }
}

impl AuthorizeCase {
    fn run(&self, generation: &Generation) -> Option<String> {
        let request = Access {
            subject: self.subject.clone(),
            action: self.action,
            vm: self.vm.clone(),
            point: "0000000000000000-1".into(),
            point_time: self.now,
            path: self.path.clone().into_bytes(),
            now: self.now,
            approvals: self.approvals.clone(),
        };
        let outcome = generation.authorize(&[request], self.now).pop()?;
        let code = self.expect.code.as_ref();
        if outcome.allowed == self.expect.allowed && code.is_none_or(|code| *code == outcome.code) {
            return None;
        }
        let said: Vec<_> = outcome.said.iter().map(|said| format!("{}: {}", said.module, said.reason)).collect();
        let expected = code.map_or(String::new(), |code| format!(" ({code})"));
        Some(unlike(
            format_args!("allowed: {}{expected}", self.expect.allowed),
            format_args!("allowed: {} ({})", outcome.allowed, outcome.code),
            &said.join("; "),
        ))
    }
}
