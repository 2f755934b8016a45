//! Runs one mover's component, or compiles that of a policy, for the process that started it and nobody else. See
//! `remora_plugins::movers`.

fn main() -> std::process::ExitCode {
    remora_plugins::movers::child_main()
}
