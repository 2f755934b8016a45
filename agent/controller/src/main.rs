//! `remora-controller`: gives backup runs to nodes, makes what they need of KubeVirt, opens repositories and gives agents
//! the keys of the tenants whose machines they hold. All of that is in `remora_kube::controller`; `schedule.rs` has what
//! policies say about it.

mod args;
mod run;
mod schedule;

fn main() -> std::process::ExitCode {
    run::run()
}
