//! How many backups are made at once.

use remora_tests::{Lab, Remora, RemoraAgent};

use super::{domain, points, policy, wait_for_runs};

/// How many runs were at work at once, at most, by what the agent wrote down when each began and when it had ended.
fn most_at_once(log: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for line in log.lines() {
        if line.contains("a run begins") {
            now += 1;
            most = most.max(now);
        } else if line.contains("a point was made") || line.contains("a run failed") {
            now = now.checked_sub(1).unwrap_or_else(|| panic!("a run ended that had not begun: {log}"));
        }
    }
    assert_eq!(now, 0, "a run has no end: {log}");
    most
}

#[test]
fn no_more_runs_are_at_work_than_may_be() {
    for limit in [1, 2] {
        let label = format!("parallel-{limit}");
        let machines: Vec<_> = (0..3).map(|n| domain(&format!("agent-par{limit}-{n}"), &label)).collect();
        let remora = Remora::init(Lab::shared());
        let mut agent = RemoraAgent::start_parallel(Lab::shared(), &remora, limit);
        agent.put(&[("parallel.yaml", &policy("parallel", &label, 3))]);
        wait_for_runs(&agent, "parallel", 3.0);
        assert_eq!(agent.stop().code(), Some(0));
        // All three are due at once, so as many begin as may.
        assert_eq!(most_at_once(&agent.log_text()), limit, "{}", agent.log_text());
        for machine in &machines {
            assert_eq!(points(&remora, machine.name()).len(), 1, "{}", machine.name());
        }
    }
}
