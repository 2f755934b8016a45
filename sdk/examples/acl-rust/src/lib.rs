//! A list of rules says who may do what below which folders: an example of a policy. The same in all languages.

use remora_sdk::Invalid;
use remora_sdk::authorize::{Decision, Effect, Policy, Request};
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

    fn authorize(&self, request: &Request) -> Decision {
        if !matches!(request.action.as_str(), "list" | "stat" | "read") {
            return Decision::new(Effect::Deny, "unknown-action", "the action is not known");
        }
        let Some((number, rule)) = (1..).zip(&self.rules).find(|(_, rule)| rule.fits(request)) else {
            return Decision::new(Effect::Abstain, "no-rule", "no rule fits");
        };
        let reason = format!("rule {number} is for {}", rule.below);
        match rule.effect {
            Says::Allow => Decision::new(Effect::Allow, "allowed", reason),
            Says::Deny => Decision::new(Effect::Deny, "denied", reason),
        }
    }
}

impl Rule {
    fn fits(&self, request: &Request) -> bool {
        let subject = &request.subject;
        let who = self.users.contains(&subject.user) || subject.groups.iter().any(|group| self.groups.contains(group));
        let what = self.actions.is_empty() || self.actions.contains(&request.action);
        let rest = request.path.strip_prefix(self.below.trim_end_matches('/').as_bytes());
        who && what && rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

remora_sdk::authorize!(Acl);
