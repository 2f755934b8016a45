//! `builtin:four-eyes`: denies sensitive paths unless somebody else, of the groups named, has consented. It allows nothing by
//! itself.

use globs::Glob;
use remora_sdk::Invalid;
use remora_sdk::authorize::{Access, Approval, Context, Decision, Effect, Policy};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    /// Globs of what is sensitive, wherever in the served tree it stands.
    paths: Vec<String>,
    /// The groups whose members may consent.
    approvers: Vec<String>,
    /// What needs consent.
    #[serde(default = "read")]
    actions: Vec<String>,
}

fn read() -> Vec<String> {
    vec!["read".into()]
}

struct FourEyes {
    paths: Vec<Glob>,
    approvers: Vec<String>,
    actions: Vec<String>,
}

impl Policy for FourEyes {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        for (field, list) in
            [("paths", &settings.paths), ("approvers", &settings.approvers), ("actions", &settings.actions)]
        {
            if list.is_empty() {
                invalid.add(format!("/{field}"), "it is empty, so this policy does nothing or lets nobody in");
            }
        }
        let Settings { paths, approvers, actions } = settings;
        let paths = Glob::all(paths, "/paths", &mut invalid);
        invalid.or(Self { paths, approvers, actions })
    }

    fn authorize(&self, context: &Context) -> impl Fn(&Access) -> Decision {
        let consent = self.consent(context);
        move |access| {
            let known = matches!(access.action.as_str(), "list" | "stat" | "read");
            let sensitive = self.paths.iter().any(|glob| glob.covers_anywhere(&access.path));
            // An action that is not known could be a way to read.
            if !sensitive || (known && !self.actions.contains(&access.action)) {
                return Decision::new(Effect::Abstain, "not-sensitive", "it needs no consent");
            }
            match consent {
                Some(by) => Decision::new(Effect::Abstain, "approved", format!("{} has consented", by.user)),
                None => Decision::new(
                    Effect::Deny,
                    "approval-needed",
                    format!("somebody else of {} must consent", self.approvers.join(", ")),
                ),
            }
        }
    }
}

impl FourEyes {
    /// The consent of somebody else who may give it.
    fn consent<'a>(&self, context: &'a Context) -> Option<&'a Approval> {
        context.approvals.iter().find(|approval| {
            approval.granted <= context.now
                && context.now < approval.expires
                // Nobody is not somebody else.
                && !approval.user.is_empty()
                && approval.user != context.subject.user
                && approval.groups.iter().any(|group| self.approvers.contains(group))
        })
    }
}

remora_sdk::authorize!(FourEyes);
