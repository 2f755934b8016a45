//! `remora-synthetic FOLDER KEY-FILE VMS SIZE DATA-EVERY`: makes a repository of simulated VMs in a folder. Each line of
//! its input, `together COUNT` or `scattered COUNT`, has the guest of each VM in turn change so many blocks and makes a
//! point; the answer is a line of JSON a point. Of no use but to `bench`.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::str::FromStr;

use remora_core::{Error, ErrorKind, Result};
use remora_synthetic::{Change, Disk, Synthetic};
use remora_vault::{KeyFile, Secret};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| invalid(format!("{what} is missing")));
    let (folder, key): (PathBuf, PathBuf) = (next("the folder")?.into(), next("the key file")?.into());
    let (vms, size, data_every) =
        (number(&next("the number of VMs")?)?, number(&next("the size")?)?, number(&next("the distance of data")?)?);
    let key = std::fs::read(&key).map_err(|e| Error::io(format!("reading {}", key.display()), e))?;
    let secret = Secret::KeyFile(KeyFile::new(&key)?);
    let synthetic = Synthetic::new(&folder, &secret, vms, Disk { size, data_every }).await?;
    for line in std::io::stdin().lock().lines() {
        let change = change(&line.map_err(|e| Error::io("reading what to do", e))?)?;
        for vm in 0..vms as usize {
            let made = synthetic.back_up(vm, change).await?;
            let json = serde_json::to_string(&made).map_err(|e| invalid(e.to_string()))?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{json}").and_then(|()| out.flush()).map_err(|e| Error::io("writing what was done", e))?;
        }
    }
    Ok(())
}

fn change(line: &str) -> Result<Change> {
    match line.split_once(' ') {
        Some(("together", count)) => number(count).map(Change::Together),
        Some(("scattered", count)) => number(count).map(Change::Scattered),
        _ => Err(invalid(format!("{line:?} is neither `together COUNT` nor `scattered COUNT`"))),
    }
}

fn number(text: &str) -> Result<u64> {
    u64::from_str(text).map_err(|e| invalid(format!("{text:?}: {e}")))
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what)
}
