//! A list of rules says who may do what below which folders: an example of a policy. The same in all languages.

use remora_sdk::Invalid;
use remora_sdk::authorize::{Access, Context, Decision, Effect, Policy, Subject};
use serde::Deserialize;

/// The first rule that fits decides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acl {
    #[serde(default)]
    rules: Vec<Rule>,
}

/// For requests of these users and groups for what lies below a folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    effect: Says,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    /// All of them if there are none.
    #[serde(default)]
    actions: Vec<String>,
    below: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Says {
    Allow,
    Deny,
}

impl Policy for Acl {
    type Settings = Self;

    fn new(settings: Self) -> Result<Self, Invalid> {
        let mut wrong = Invalid::default();
        for (i, rule) in settings.rules.iter().enumerate() {
            if !rule.below.starts_with('/') {
                wrong.add(format!("/rules/{i}/below"), "an absolute path is wanted");
            }
        }
        wrong.or(settings)
    }

    fn authorize(&self, context: &Context) -> impl Fn(&Access) -> Decision {
        // The rules for the one who asks, numbered as all of them are.
        let rules: Vec<_> = (1..).zip(&self.rules).filter(|(_, rule)| rule.is_for(&context.subject)).collect();
        move |access| {
            if !matches!(access.action.as_str(), "list" | "stat" | "read") {
                return Decision::new(Effect::Deny, "unknown-action", "the action is not known");
            }
            let Some((number, rule)) = rules.iter().find(|(_, rule)| rule.covers(access)) else {
                return Decision::new(Effect::Abstain, "no-rule", "no rule fits");
            };
            let reason = format!("rule {number} is for {}", rule.below);
            match rule.effect {
                Says::Allow => Decision::new(Effect::Allow, "allowed", reason),
                Says::Deny => Decision::new(Effect::Deny, "denied", reason),
            }
        }
    }
}

impl Rule {
    fn is_for(&self, subject: &Subject) -> bool {
        self.users.contains(&subject.user) || subject.groups.iter().any(|group| self.groups.contains(group))
    }

    fn covers(&self, access: &Access) -> bool {
        let what = self.actions.is_empty() || self.actions.contains(&access.action);
        let rest = access.path.strip_prefix(self.below.trim_end_matches('/').as_bytes());
        what && rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

remora_sdk::authorize!(Acl);
