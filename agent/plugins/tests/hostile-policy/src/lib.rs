//! A policy that misbehaves as its settings say, once it has answered the first, harmless question of a load. Else it selects the
//! machines that are named, has them backed up once a day, keeps nothing, and says nothing of files.

#[path = "../../hostile/src/exhaust.rs"]
mod exhaust;

use std::hint::black_box;

use exhaust::{deeper, grow};
use remora_sdk::{Invalid, authorize, retention, schedule, select, serde};

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
struct Settings {
    /// `hang`, `trap`, `grow`, `recurse` or `dawdle`, and where, such as `hang in select`.
    #[serde(default)]
    misbehave: String,
    /// The machines that it selects.
    #[serde(default)]
    names: Vec<String>,
}

struct Hostile(Settings);

remora_sdk::select!(Hostile);
remora_sdk::schedule!(Hostile);
remora_sdk::retention!(Hostile);
remora_sdk::authorize!(Hostile);

/// The machine of the first question.
const HARMLESS: &str = "canary";

const DAY: i64 = 86_400;

/// At a cycle each, more than 5 µs of any processor, which a decision on a file should take; and far less than a deadline.
const DAWDLING: u32 = 50_000;

impl Hostile {
    fn asked(&self, function: &str, machine: &str) {
        if machine == HARMLESS {
            return;
        }
        match self.0.misbehave.split_once(" in ") {
            Some(("trap", wanted)) if wanted == function => panic!(),
            Some(("hang", wanted)) if wanted == function => loop {
                black_box(());
            },
            Some(("grow", wanted)) if wanted == function => grow(),
            Some(("recurse", wanted)) if wanted == function => drop(black_box(deeper(black_box(1)))),
            Some(("dawdle", wanted)) if wanted == function => {
                for step in 0..DAWDLING {
                    black_box(step);
                }
            }
            _ => {}
        }
    }
}

impl select::Policy for Hostile {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        Ok(Self(settings))
    }

    fn select(&self, vm: &select::Vm) -> select::Verdict {
        self.asked("select", &vm.name);
        select::Verdict { selected: self.0.names.contains(&vm.name), reason: "it is named, or not".into() }
    }
}

impl schedule::Policy for Hostile {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        Ok(Self(settings))
    }

    fn next(&self, request: &schedule::Request) -> schedule::Answer {
        self.asked("schedule", &request.vm.name);
        let start = request.runs.first().map_or(request.after, |run| run.time + DAY);
        schedule::Answer { start: Some(start), reason: "once a day".into() }
    }
}

impl retention::Policy for Hostile {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        Ok(Self(settings))
    }

    fn judge(&self, request: &retention::Request) -> Vec<retention::Verdict> {
        self.asked("retention", &request.vm.name);
        let drop = |_| retention::Verdict { fate: retention::Fate::Drop, reason: "nothing is kept".into() };
        request.points.iter().map(drop).collect()
    }
}

impl authorize::Policy for Hostile {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        Ok(Self(settings))
    }

    fn authorize(&self, context: &authorize::Context) -> impl Fn(&authorize::Access) -> authorize::Decision {
        move |_| {
            self.asked("authorize", &context.vm.name);
            authorize::Decision::new(authorize::Effect::Abstain, "no-word", "it says nothing of files")
        }
    }
}
