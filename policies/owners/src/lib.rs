//! `builtin:owners`: lets at the files of a VM whoever owns it: by a label of the VM, by what the cluster lets them do with
//! it, or because the settings name them. Of everybody else it says nothing.

use remora_sdk::Invalid;
use remora_sdk::authorize::{Decision, Effect, Policy, Request};
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
    /// Users who own every VM.
    users: Vec<String>,
    /// Groups whose members own every VM.
    groups: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_label: "remora.dev/owner".into(),
            group_label: "remora.dev/owner-group".into(),
            grants: vec!["update virtualmachines".into()],
            users: Vec::new(),
            groups: Vec::new(),
        }
    }
}

struct Owners(Settings);

impl Policy for Owners {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        Ok(Self(settings))
    }

    fn authorize(&self, request: &Request) -> Decision {
        if !matches!(request.action.as_str(), "list" | "stat" | "read") {
            return Decision::new(Effect::Deny, "unknown-action", format!("{:?} is not known", request.action));
        }
        match self.owns(request) {
            Some(reason) => Decision::new(Effect::Allow, "owner", reason),
            None => {
                Decision::new(Effect::Abstain, "not-owner", "neither a label, a grant nor the settings name the user")
            }
        }
    }
}

impl Owners {
    /// Why the subject owns the VM.
    fn owns(&self, request: &Request) -> Option<String> {
        let Self(settings) = self;
        let subject = &request.subject;
        // Nobody is nobody's owner.
        if subject.user.is_empty() {
            return None;
        }
        let labelled = |key: &str, name: &String| {
            let values = request.vm.labels.iter().filter(|pair| pair.key == key);
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
        let named =
            settings.users.contains(&subject.user) || subject.groups.iter().any(|g| settings.groups.contains(g));
        named.then(|| "the settings name the user or a group".into())
    }
}

remora_sdk::authorize!(Owners);
