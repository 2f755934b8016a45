//! `builtin:paths`: allows and denies paths by globs, for everybody or for some.
//!
//! A path that is denied is denied wherever in the served tree it stands, since the same filesystem is served in more than
//! one place: `/srv/hr/**` covers `/root/srv/hr/pay.ods` and `/vda/2/srv/hr/pay.ods` too. One that is allowed stands for
//! itself, from the tree's root.

use globs::Glob;
use remora_sdk::Invalid;
use remora_sdk::authorize::{Access, Context, Decision, Effect, Policy, Subject};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    allow_paths: Vec<String>,
    #[serde(default)]
    deny_paths: Vec<String>,
    /// The same for some users and groups.
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    allow_paths: Vec<String>,
    #[serde(default)]
    deny_paths: Vec<String>,
}

/// A rule whose globs make sense.
struct Checked {
    users: Vec<String>,
    groups: Vec<String>,
    allow_paths: Vec<Glob>,
    deny_paths: Vec<Glob>,
}

impl Checked {
    fn new(rule: Rule, path: &str, invalid: &mut Invalid) -> Self {
        Self {
            users: rule.users,
            groups: rule.groups,
            allow_paths: Glob::all(rule.allow_paths, &format!("{path}/allowPaths"), invalid),
            deny_paths: Glob::all(rule.deny_paths, &format!("{path}/denyPaths"), invalid),
        }
    }

    fn is_for(&self, subject: &Subject) -> bool {
        self.users.contains(&subject.user) || self.groups.iter().any(|group| subject.groups.contains(group))
    }
}

struct Paths {
    everybody: Checked,
    some: Vec<Checked>,
}

impl Policy for Paths {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let Settings { allow_paths, deny_paths, rules } = settings;
        let mut invalid = Invalid::default();
        if allow_paths.is_empty() && deny_paths.is_empty() && rules.is_empty() {
            invalid.add("", "there is no path: give allowPaths, denyPaths or rules");
        }
        let everybody = Rule { users: Vec::new(), groups: Vec::new(), allow_paths, deny_paths };
        let everybody = Checked::new(everybody, "", &mut invalid);
        let mut some = Vec::with_capacity(rules.len());
        for (n, rule) in rules.into_iter().enumerate() {
            let path = format!("/rules/{n}");
            let for_nobody = rule.users.is_empty() && rule.groups.is_empty();
            some.push(Checked::new(rule, &path, &mut invalid));
            if for_nobody {
                invalid.add(path, "it is for nobody: give users or groups");
            }
        }
        invalid.or(Self { everybody, some })
    }

    fn authorize(&self, context: &Context) -> impl Fn(&Access) -> Decision {
        let some = self.some.iter().filter(|rule| rule.is_for(&context.subject));
        let rules: Vec<_> = std::iter::once(&self.everybody).chain(some).collect();
        move |access| decide(&rules, access)
    }
}

/// By the rules that are for the one who asks.
fn decide(rules: &[&Checked], access: &Access) -> Decision {
    let denied = rules.iter().flat_map(|rule| &rule.deny_paths).find(|glob| glob.covers_anywhere(&access.path));
    if let Some(glob) = denied {
        return Decision::new(Effect::Deny, "path-denied", format!("{} is denied", glob.text()));
    }
    let known = matches!(access.action.as_str(), "list" | "stat" | "read");
    let allowed = rules.iter().flat_map(|rule| &rule.allow_paths).find(|glob| glob.covers(&access.path));
    match allowed {
        Some(glob) if known => Decision::new(Effect::Allow, "path-allowed", format!("{} is allowed", glob.text())),
        Some(_) => Decision::new(Effect::Deny, "unknown-action", format!("\"{}\" is not known", access.action)),
        None => Decision::new(Effect::Abstain, "no-rule", "no path of the settings covers it"),
    }
}

remora_sdk::authorize!(Paths);
