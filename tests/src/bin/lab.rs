//! A lab by hand: `lab COMMAND…` runs a command (a shell, if none is given) with `LIBVIRT_DEFAULT_URI` set to a lab's
//! libvirt. The lab ends with the command.

use std::process::{Command, ExitCode};

use remora_tests::{Lab, Must};

fn main() -> ExitCode {
    let lab = Lab::start();
    let mut command: Vec<_> = std::env::args_os().skip(1).collect();
    if command.is_empty() {
        command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    let mut command_line = Command::new(&command[0]);
    command_line.args(&command[1..]).env("LIBVIRT_DEFAULT_URI", lab.uri()).env("REMORA_LAB", lab.dir());
    let status = command_line.status().must(format_args!("run {}", command[0].display()));
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
