//! Policies that trap, hang and take all that they get where they are asked, beside others that answer.

use remora_tests::{Lab, Remora, RemoraAgent, hostile_policy, wait_until};

use super::{RUN, domain, points, policy, wait_for_runs};

const VM: &str = "agent-hostile";

/// A document whose modules misbehave.
fn misbehaves(name: &str, misbehave: &str) -> String {
    let module = format!("{{module: file:hostile.wasm, settings: {{misbehave: {misbehave}, names: [{VM}]}}}}");
    format!(
        "kind: BackupPolicy\nname: {name}\nselect: {module}\nschedule: {module}\nretention: {module}\nquiesce: never\n"
    )
}

/// Puts these documents, by their policies' names, in place of all others.
#[track_caller]
fn put(agent: &RemoraAgent, documents: &[(&str, &String)]) {
    let (hostile, files) = (hostile_policy(), documents.iter().map(|(name, _)| format!("{name}.yaml")));
    let files: Vec<_> = files.collect();
    let mut all: Vec<(&str, &[u8])> =
        files.iter().zip(documents).map(|(file, (_, text))| (file.as_str(), text.as_bytes())).collect();
    all.push(("hostile.wasm", &hostile));
    agent.put_bytes(&all);
}

#[test]
fn policies_that_trap_and_hang_hold_up_no_other_and_nothing_is_dropped() {
    let remora = Remora::init(Lab::shared());
    let _vm = domain(VM, "hostile");
    let agent = RemoraAgent::start(Lab::shared(), &remora);
    let [first, second, third] = ["first", "second", "third"].map(|name| policy(name, "hostile", 1));
    let failing = [
        ("hangs", "hang", "select"),
        ("traps", "trap", "select"),
        ("grows", "grow", "select"),
        ("sinks", "recurse", "select"),
        ("late", "hang", "schedule"),
        ("falls", "trap", "schedule"),
        ("swells", "grow", "schedule"),
    ];
    let hostile = failing.map(|(name, how, at)| (name, misbehaves(name, &format!("{how} in {at}"))));
    let beside: Vec<_> = hostile.iter().map(|(name, text)| (*name, text)).collect();

    put(&agent, &[&[("first", &first)][..], &beside].concat());
    wait_for_runs(&agent, "first", 1.0);
    put(&agent, &[&[("first", &first), ("second", &second)][..], &beside].concat());
    wait_for_runs(&agent, "second", 1.0);
    // Both keep one point; but whether the others select the machine, and what they keep of it, they have not said.
    assert_eq!(points(&remora, VM).len(), 2);
    for (policy, _, decides) in failing {
        let failures = format!("remora_policy_failures_total{{policy=\"{policy}\",decides=\"{decides}\"}}");
        let told = || agent.metric(&failures).is_some_and(|failures| failures >= 1.0);
        wait_until(format_args!("{failures} tells nothing: {}", agent.log_text()), RUN, told);
        assert_eq!(agent.metric(&format!("remora_policy_broken{{file=\"{policy}.yaml\"}}")), Some(0.0));
        let run = format!("remora_runs_total{{policy=\"{policy}\",outcome=\"Succeeded\"}}");
        assert_eq!(agent.metric(&run), None, "{}", agent.log_text());
    }

    // Those that have their say on when, and fail where they are to say what is kept: each has its backup, and none drops any.
    let failing = [("forgets", "trap"), ("broods", "hang"), ("hoards", "grow"), ("digs", "recurse")];
    for (before, (name, how)) in failing.into_iter().enumerate() {
        let text = misbehaves(name, &format!("{how} in retention"));
        put(&agent, &[("first", &first), ("second", &second), (name, &text)]);
        wait_for_runs(&agent, name, 1.0);
        let problems = format!("remora_run_problems_total{{policy=\"{name}\",step=\"Prune\"}}");
        assert_eq!(agent.metric(&problems), Some(1.0), "{}", agent.log_text());
        assert_eq!(points(&remora, VM).len(), 3 + before, "{name}");
    }

    // Without them the same policies drop what they do not keep.
    put(&agent, &[("first", &first), ("second", &second), ("third", &third)]);
    wait_for_runs(&agent, "third", 1.0);
    assert_eq!(points(&remora, VM).len(), 1);
}
