//! `builtin:owners`: lets at the files of a VM whoever owns it: by a label of the VM, by what the cluster lets them do with
//! it, or because the settings name them, as owners of its namespace or of every VM. Of everybody else it says nothing.

use std::collections::BTreeMap;

use remora_sdk::Invalid;
use remora_sdk::authorize::{Access, Context, Decision, Effect, Policy, Subject};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Settings {
    /// The label whose value names users, with commas between them.
    user_label: String,
    /// The label whose value names groups.
    group_label: String,
    /// What the cluster lets owners do with a VM, as `verb resource`; one of them is enough.
    grants: Vec<String>,
    /// Who owns every VM of a namespace, by its name.
    namespaces: BTreeMap<String, Named>,
    /// Users who own every VM.
    users: Vec<String>,
    /// Groups whose members own every VM.
    groups: Vec<String>,
}

/// Some owners.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_label: "remora.dev/owner".into(),
            group_label: "remora.dev/owner-group".into(),
            grants: vec!["update virtualmachines".into()],
            namespaces: BTreeMap::new(),
            users: Vec::new(),
            groups: Vec::new(),
        }
    }
}

struct Owners(Settings);

impl Policy for Owners {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        for (namespace, named) in &settings.namespaces {
            let path = format!("/namespaces/{}", namespace.replace('~', "~0").replace('/', "~1"));
            // VMs of a plain host are in none, and must not be given away by a name that was left out.
            if !is_namespace(namespace) {
                invalid.add(path, "no namespace has this name: give it in full, without patterns");
            } else if named.users.is_empty() && named.groups.is_empty() {
                invalid.add(path, "it names nobody: give users, groups or both");
            }
        }
        invalid.or(Self(settings))
    }

    fn authorize(&self, context: &Context) -> impl Fn(&Access) -> Decision {
        let owns = self.owns(context);
        move |access| {
            if !matches!(access.action.as_str(), "list" | "stat" | "read") {
                return Decision::new(Effect::Deny, "unknown-action", format!("\"{}\" is not known", access.action));
            }
            match &owns {
                Some(reason) => Decision::new(Effect::Allow, "owner", reason),
                None => Decision::new(
                    Effect::Abstain,
                    "not-owner",
                    "neither a label, a grant nor the settings name the user",
                ),
            }
        }
    }
}

impl Owners {
    /// Why the subject owns the VM.
    fn owns(&self, context: &Context) -> Option<String> {
        let Self(settings) = self;
        let subject = &context.subject;
        // Nobody is nobody's owner.
        if subject.user.is_empty() {
            return None;
        }
        let labelled = |key: &str, name: &String| {
            let values = context.vm.labels.iter().filter(|pair| pair.key == key);
            values.flat_map(|pair| pair.value.split(',')).any(|value| value.trim() == name)
        };
        if labelled(&settings.user_label, &subject.user) {
            return Some(format!("the label {} names the user", settings.user_label));
        }
        if let Some(group) =
            subject.groups.iter().find(|group| !group.is_empty() && labelled(&settings.group_label, group))
        {
            return Some(format!("the label {} names the group {group}", settings.group_label));
        }
        if let Some(grant) = subject.grants.iter().find(|grant| settings.grants.contains(grant)) {
            return Some(format!("the cluster lets the user {grant}"));
        }
        let namespace = &context.vm.namespace;
        if settings.namespaces.get(namespace).is_some_and(|named| is_among(subject, &named.users, &named.groups)) {
            return Some(format!("the settings name the user or a group as owner of the namespace {namespace}"));
        }
        is_among(subject, &settings.users, &settings.groups).then(|| "the settings name the user or a group".into())
    }
}

/// Whether the user, or a group of the user, is listed.
fn is_among(subject: &Subject, users: &[String], groups: &[String]) -> bool {
    users.contains(&subject.user) || subject.groups.iter().any(|group| groups.contains(group))
}

/// Whether Kubernetes takes this for a namespace's name (RFC 1123).
fn is_namespace(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fine) && !name.starts_with('-') && !name.ends_with('-')
}

remora_sdk::authorize!(Owners);
