//! `remora-controller`: gives backup runs to nodes, makes what they need of KubeVirt, opens repositories and gives agents
//! the keys of the tenants whose machines they hold. All of it is in `remora_kube::controller`.

mod args;
mod run;

fn main() -> std::process::ExitCode {
    run::run()
}
