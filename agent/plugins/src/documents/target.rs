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
    scratch: Option<ScratchYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ScratchYaml {
    storage_class_name: Spanned<String>,
}

/// The mover of what has remora's own format.
const VAULT: &str = "vault";

/// What a URL begins with that names a mover; here only a name stands.
const URL_OF_MOVER: &str = "plugin:";

/// The longest name that an object of Kubernetes may have.
const LONGEST_NAME: usize = 253;

impl At<'_> {
    /// None if neither is named.
    pub(super) fn target(&self, target: TargetYaml) -> Result<Option<Target>> {
        let TargetYaml { repository, mover, .. } = target;
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

    /// The `StorageClass` of the scratch, which runs on Kubernetes have, and those into a repository only.
    pub(super) fn scratch_class(&self, target: &TargetYaml) -> Result<Option<String>> {
        let Some(ScratchYaml { storage_class_name: class }) = &target.scratch else { return Ok(None) };
        let line = Some(class.referenced.line());
        if target.repository.is_none() {
            return Err(self
                .error(line, "target.scratch: it is of runs on Kubernetes, and target names no repository for those")
                .advise("Name a Repository in target.repository, or leave target.scratch out."));
        }
        if !is_name_of_object(&class.value) {
            let what = format!("target.scratch.storageClassName: {:?} is no name of a StorageClass", class.value);
            return Err(self.error(line, what).advise(
                "Name one that `kubectl get storageclasses` shows, or leave target.scratch out to have the cluster's default.",
            ));
        }
        Ok(Some(class.value.clone()))
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

/// Whether an object of Kubernetes may have this name, which is one as hosts have them.
fn is_name_of_object(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        label.bytes().all(|b| alphanumeric(b) || b == b'-') && ends.into_iter().all(|end| end.is_some_and(alphanumeric))
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{BackupDocument, Document, parse};

    fn target(text: &str) -> Result<Option<Target>> {
        document(text).map(|document| document.target)
    }

    fn document(text: &str) -> Result<Box<BackupDocument>> {
        let text = format!(
            "kind: BackupPolicy\nname: nightly\nselect: {{module: builtin:labels}}\nschedule: {{module: builtin:cron}}\n{text}"
        );
        match parse("nightly.yaml", &text)? {
            Document::Backup(document) => Ok(document),
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
    fn a_repository_may_have_the_class_of_the_scratch_beside_it() {
        let longest = format!("{}.{}", "a".repeat(126), "b".repeat(126));
        for class in ["fast", "local-path.v2", "0", longest.as_str()] {
            for beside in ["", ", mover: vault"] {
                let text =
                    format!("target: {{repository: offsite{beside}, scratch: {{storageClassName: '{class}'}}}}\n");
                let document = document(&text).unwrap();
                assert_eq!(document.scratch_class.as_deref(), Some(class), "{text}");
                assert_eq!(document.target, Some(Target::Repository("offsite".into())), "{text}");
            }
        }
        for text in ["", "target: {repository: offsite}\n", "target: {mover: array}\n"] {
            assert_eq!(document(text).unwrap().scratch_class, None, "{text}");
        }
    }

    #[test]
    fn a_class_that_none_can_be_or_that_no_run_would_have_is_told_with_its_field_and_line() {
        let no_name = "is no name of a StorageClass";
        for (text, said, advice) in [
            ("{repository: offsite, scratch: {storageClassName: ''}}", no_name, "the cluster's default"),
            ("{repository: offsite, scratch: {storageClassName: Fast}}", no_name, "kubectl get storageclasses"),
            ("{repository: offsite, scratch: {storageClassName: -fast}}", no_name, "kubectl get storageclasses"),
            ("{repository: offsite, scratch: {storageClassName: fast.}}", no_name, "kubectl get storageclasses"),
            ("{repository: offsite, scratch: {storageClassName: a/b}}", no_name, "kubectl get storageclasses"),
            ("{scratch: {storageClassName: fast}}", "names no repository", "target.repository"),
            ("{mover: array, scratch: {storageClassName: fast}}", "names no repository", "leave target.scratch out"),
            ("{repository: offsite, scratch: {}}", "storageClassName", "policies.md"),
            ("{repository: offsite, scratch: {class: fast}}", "class", "policies.md"),
        ] {
            let error = document(&format!("target: {text}\n")).unwrap_err();
            assert!(error.to_string().starts_with("nightly.yaml, line 5: ") && error.chain().contains(said), "{error}");
            assert!(error.advice().is_some_and(|all| all.contains(advice)), "{text}: {:?}", error.advice());
        }
        let long = format!("target: {{repository: offsite, scratch: {{storageClassName: {}}}}}\n", "a".repeat(254));
        assert!(document(&long).unwrap_err().to_string().contains(no_name));
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
