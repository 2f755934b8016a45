//! From YAML to documents.

use std::ops::RangeInclusive;
use std::time::Duration;

use remora_core::Result;
use remora_core::point::Quiesce;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::at::At;
use super::node::Node;
use super::target::TargetYaml;
use super::{AccessDocument, BackupDocument, Binding, Document, Mode, Settings, Use};

/// A document is at most so long: a `ConfigMap` holds no more.
const LONGEST: usize = 1 << 20;

/// How long the last good version of an access policy decides unless the document says otherwise.
const MAX_STALENESS: Duration = Duration::from_hours(24);

/// What a run may be given: nothing is backed up in less, and a `BackupRun` has no more.
const DEADLINES: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(72);

/// The first look at a document.
#[derive(Deserialize)]
struct AnyDocument {
    kind: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BackupYaml {
    #[serde(rename = "kind")]
    _kind: String,
    name: Spanned<String>,
    select: UseYaml,
    schedule: UseYaml,
    retention: Option<UseYaml>,
    target: Option<TargetYaml>,
    #[serde(default)]
    quiesce: Quiesce,
    deadline: Option<Spanned<String>>,
    verify: Option<VerifyYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyYaml {
    every: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AccessYaml {
    #[serde(rename = "kind")]
    _kind: String,
    name: Spanned<String>,
    authorize: Spanned<Vec<BindingYaml>>,
    max_staleness: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UseYaml {
    module: Spanned<String>,
    settings: Option<Spanned<Node>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingYaml {
    module: Spanned<String>,
    settings: Option<Spanned<Node>>,
    #[serde(default)]
    mode: Mode,
}

/// Reads the document of a file; `file` is what errors call it.
pub fn parse(file: &str, text: &str) -> Result<Document> {
    let at = At { file, guide: GUIDE };
    if text.len() > LONGEST {
        return Err(at.error(None, "it is longer than 1 MiB"));
    }
    let any: AnyDocument = at.yaml(text)?;
    match any.kind.value.as_str() {
        "BackupPolicy" => at.backup(at.yaml(text)?).map(|document| Document::Backup(Box::new(document))),
        "AccessPolicy" => at.access(at.yaml(text)?).map(Document::Access),
        other => Err(at
            .error(Some(any.kind.referenced.line()), format!("kind: there is no document of kind {other:?}"))
            .advise("Use BackupPolicy or AccessPolicy.")),
    }
}

/// What lists all fields.
const GUIDE: &str = "docs/policies.md lists the fields of each kind of document.";

impl At<'_> {
    fn backup(&self, yaml: BackupYaml) -> Result<BackupDocument> {
        let scratch_class = yaml.target.as_ref().map(|target| self.scratch_class(target)).transpose()?.flatten();
        let verify_every = yaml.verify.map(|verify| self.length("verify.every", &verify.every)).transpose()?;
        let deadline = yaml.deadline.as_ref().map(|text| self.deadline(text)).transpose()?;
        Ok(BackupDocument {
            name: self.name(yaml.name)?,
            select: self.uses("select", &yaml.select.module, yaml.select.settings)?,
            schedule: self.uses("schedule", &yaml.schedule.module, yaml.schedule.settings)?,
            retention: yaml.retention.map(|uses| self.uses("retention", &uses.module, uses.settings)).transpose()?,
            target: yaml.target.map(|target| self.target(target)).transpose()?.flatten(),
            scratch_class,
            quiesce: yaml.quiesce,
            deadline,
            verify_every,
        })
    }

    fn deadline(&self, text: &Spanned<String>) -> Result<Duration> {
        let length = self.length("deadline", text)?;
        if DEADLINES.contains(&length) {
            return Ok(length);
        }
        Err(self
            .error(Some(text.referenced.line()), format!("deadline: no run has {}", text.value))
            .advise("Give it between 1m and 72h."))
    }

    fn access(&self, yaml: AccessYaml) -> Result<AccessDocument> {
        let max_staleness = match &yaml.max_staleness {
            Some(text) => self.length("maxStaleness", text)?,
            None => MAX_STALENESS,
        };
        let line = yaml.authorize.referenced.line();
        let binding = |binding: BindingYaml| {
            let uses = self.uses("authorize", &binding.module, binding.settings)?;
            Ok(Binding { uses, mode: binding.mode })
        };
        let authorize: Vec<_> = yaml.authorize.value.into_iter().map(binding).collect::<Result<_>>()?;
        if authorize.is_empty() {
            return Err(self
                .error(Some(line), "authorize: it names no policy")
                .advise("Delete the document to have none."));
        }
        Ok(AccessDocument { name: self.name(yaml.name)?, authorize, max_staleness })
    }

    fn uses(&self, field: &str, module: &Spanned<String>, settings: Option<Spanned<Node>>) -> Result<Use> {
        let reference = self.module(&format!("{field}.module"), module)?;
        let line = module.referenced.line();
        Ok(Use { module: reference, line, settings: settings.map(Settings::new).unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}
schedule:
  module: builtin:cron
  settings:
    cron: 15 2 * * *
    timezone: Europe/Prague
    blackout:
      - {days: [mon], from: 08:00, to: 18:00}
retention: {module: builtin:gfs, settings: {last: 3, daily: 7}}
target:    {repository: offsite, mover: vault}
quiesce:   required
verify:    {every: 7d}
deadline:  12h
";

    #[test]
    fn a_backup_policy_is_read_with_the_lines_of_its_settings() {
        let Document::Backup(document) = parse("nightly.yaml", NIGHTLY).unwrap() else { panic!("another kind") };
        assert_eq!((document.name.as_str(), document.quiesce), ("nightly", Quiesce::Required));
        assert_eq!(document.verify_every, Some(Duration::from_hours(7 * 24)));
        assert_eq!(document.deadline, Some(Duration::from_hours(12)));
        assert_eq!(document.select.settings.json(), r#"{"matchLabels":{"backup":"nightly"}}"#);
        let schedule = &document.schedule.settings;
        let json: serde_json::Value = serde_json::from_str(&schedule.json()).unwrap();
        assert_eq!(json["blackout"][0]["from"], "08:00");
        assert_eq!(schedule.line("/cron"), Some(7));
        assert_eq!(schedule.line("/blackout/0/to"), Some(10));
        // What is not there stands where it should be.
        assert_eq!(schedule.line("/timezone/nonsense"), Some(8));
        assert_eq!(schedule.line("/jitter"), schedule.line(""));
    }

    #[test]
    fn an_access_policy_has_modes() {
        let text = "kind: AccessPolicy\nname: files\nauthorize:\n- {module: builtin:owners}\n\
                    - {module: builtin:paths, settings: {denyPaths: [/srv/hr/**]}, mode: shadow}\nmaxStaleness: 1h\n";
        let Document::Access(document) = parse("access.yaml", text).unwrap() else { panic!("another kind") };
        let modes: Vec<_> = document.authorize.iter().map(|binding| binding.mode).collect();
        assert_eq!(modes, [Mode::Enforce, Mode::Shadow]);
        assert_eq!(document.authorize[0].uses.settings.json(), "{}");
        assert_eq!(document.max_staleness, Duration::from_hours(1));
    }

    #[test]
    fn every_error_names_the_file_and_the_line() {
        let table = [
            ("kind: Backup\n", 1, "BackupPolicy or AccessPolicy"),
            (
                "kind: BackupPolicy\nname: a b\nselect: {module: builtin:labels}\nschedule: {module: builtin:cron}\n",
                2,
                "63",
            ),
            (&NIGHTLY.replace("builtin:cron", "builtin:corn"), 5, "cron"),
            (&NIGHTLY.replace("builtin:cron", "oci://x/y@sha256:00"), 5, "digest of its manifest"),
            (&NIGHTLY.replace("quiesce:", "quiet:"), 13, "policies.md"),
            (&NIGHTLY.replace("required", "perhaps"), 13, "policies.md"),
            (&NIGHTLY.replace("7d", "often"), 14, "7d"),
            (&NIGHTLY.replace("12h", "soon"), 15, "12h"),
            (&NIGHTLY.replace("12h", "59s"), 15, "1m and 72h"),
            (&NIGHTLY.replace("12h", "73h"), 15, "1m and 72h"),
            (&NIGHTLY.replace("mover: vault", "mover: acme"), 12, "vault"),
            ("kind: AccessPolicy\nname: files\nauthorize: []\n", 3, "Delete"),
            ("kind: AccessPolicy\nname: [\n", 2, "policies.md"),
        ];
        for (text, line, advice) in table {
            let error = parse("x.yaml", text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("x.yaml, line {line}: ")), "{error} ({text})");
            assert!(error.advice().is_some_and(|said| said.contains(advice)), "{error}: {:?}", error.advice());
        }
    }
}
