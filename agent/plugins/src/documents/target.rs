//! What the points of a policy go to.

use remora_core::Result;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::at::At;

/// What points go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A repository of remora's own format: a name in `agent.toml`, or on Kubernetes that of a `Repository`.
    Repository(String),
    /// What the mover of this name, a document of the folder of plugins, keeps in a form of its own.
    Mover(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetYaml {
    repository: Option<Spanned<String>>,
    mover: Option<Spanned<String>>,
}

/// The mover of what has remora's own format.
const VAULT: &str = "vault";

/// What a URL begins with that names a mover; here only a name stands.
const URL_OF_MOVER: &str = "plugin:";

impl At<'_> {
    /// None if neither is named.
    pub(super) fn target(&self, target: TargetYaml) -> Result<Option<Target>> {
        let TargetYaml { repository, mover } = target;
        match (repository, mover.filter(|mover| mover.value != VAULT)) {
            (None, None) => Ok(None),
            (Some(repository), None) => self.repository(repository).map(Some),
            (None, Some(mover)) => self.mover(mover).map(Some),
            (Some(_), Some(mover)) => {
                let what = format!("target: it names a repository and the mover {:?}", mover.value);
                Err(self
                    .error(Some(mover.referenced.line()), what)
                    .advise("Name one of them: the mover of a repository is `vault`."))
            }
        }
    }

    fn repository(&self, name: Spanned<String>) -> Result<Target> {
        if name.value.starts_with(URL_OF_MOVER) {
            return Err(self
                .error(Some(name.referenced.line()), format!("target.repository: {:?} is no name", name.value))
                .advise("Name a repository of agent.toml, or with `mover` a document of the folder of plugins."));
        }
        Ok(Target::Repository(name.value))
    }

    /// Its name is that of a file.
    fn mover(&self, name: Spanned<String>) -> Result<Target> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.value.is_empty() || name.value.starts_with('.') || !name.value.bytes().all(good) {
            return Err(self
                .error(Some(name.referenced.line()), format!("target.mover: {:?} is no name", name.value))
                .advise("Name a document of the folder of plugins, without its .yaml."));
        }
        Ok(Target::Mover(name.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{Document, parse};

    fn target(text: &str) -> Result<Option<Target>> {
        let text = format!(
            "kind: BackupPolicy\nname: nightly\nselect: {{module: builtin:labels}}\nschedule: {{module: builtin:cron}}\n{text}"
        );
        match parse("nightly.yaml", &text)? {
            Document::Backup(document) => Ok(document.target),
            Document::Access(_) => panic!("another kind"),
        }
    }

    #[test]
    fn a_target_is_a_repository_or_a_mover_or_left_open() {
        let (repository, mover) = (Target::Repository("offsite".into()), Target::Mover("array".into()));
        for (text, wanted) in [
            ("", None),
            ("target: {}\n", None),
            ("target: {mover: vault}\n", None),
            ("target: {repository: offsite}\n", Some(&repository)),
            ("target: {repository: offsite, mover: vault}\n", Some(&repository)),
            ("target: {mover: array}\n", Some(&mover)),
        ] {
            assert_eq!(target(text).unwrap().as_ref(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_told_with_its_field_and_line() {
        for (text, said, advice) in [
            ("{repository: 'plugin:array'}", "target.repository: \"plugin:array\" is no name", "with `mover`"),
            ("{mover: ''}", "target.mover: \"\" is no name", "without its .yaml"),
            ("{mover: ../array}", "target.mover: \"../array\" is no name", "without its .yaml"),
            ("{mover: .array}", "target.mover: \".array\" is no name", "without its .yaml"),
            ("{repository: offsite, mover: array}", "a repository and the mover \"array\"", "`vault`"),
        ] {
            let error = target(&format!("target: {text}\n")).unwrap_err();
            assert!(error.to_string().starts_with("nightly.yaml, line 5: ") && error.chain().contains(said), "{error}");
            assert!(error.advice().is_some_and(|all| all.contains(advice)), "{text}: {:?}", error.advice());
        }
    }
}
