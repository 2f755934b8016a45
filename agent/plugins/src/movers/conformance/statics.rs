//! What can be told of a mover before it stores anything.

use serde_json::Value;

use super::super::conversation::Failed;
use super::super::memory::Ledger;
use super::super::process::Child;
use super::super::wire::World;
use super::subject::{Mover, Subject, ensure, told};
use crate::conformance::settings::{self, UNKNOWN};
use crate::conformance::{Depth, Findings};
use crate::host::check_form;

/// What a vault stores in one piece.
const SEGMENT: u64 = 64 << 20;

const WORLD: &str = "is a component of the world object-store that imports nothing else";
const OPENS: &str = "takes its settings and opens";

pub(super) async fn try_all(findings: &mut Findings, subject: &Subject, mover: &Mover, depth: Depth) {
    findings.size(&subject.component);
    let started = std::time::Instant::now();
    let fits = match check_form(&subject.component) {
        Ok(()) => start(subject).await,
        Err(error) => Err(error),
    };
    findings.figure("starting a process and compiling", started.elapsed().as_secs_f64() * 1e3, "ms", None);
    let fits = fits.map_err(|error| error.chain());
    let sound = fits.is_ok();
    findings.note(WORLD, fits);
    if !sound {
        return;
    }
    findings.note(OPENS, opens(mover).await);
    if depth != Depth::Bench {
        let good: Value = serde_json::from_str(&subject.settings).unwrap_or_default();
        findings.note("refuses settings that are none", none(mover.ready()).await);
        findings.note("refuses a setting that it does not have", unknown(mover.ready(), &good).await);
        findings.note("settings of any type make no trap", mistyped(mover.ready(), &good).await);
    }
}

async fn start(subject: &Subject) -> remora_core::Result<()> {
    let memory = Ledger::of_this_process().take()?;
    Child::start(&subject.program, &subject.component, None, World::Objects, memory).await.map(drop)
}

async fn opens(mover: &Mover) -> Result<(), String> {
    let can = mover.0.capabilities().await.map_err(|failed| told(&failed))?;
    ensure(can.max_put >= SEGMENT, format!("max-put is {}: a vault stores {SEGMENT} bytes at once", can.max_put))?;
    ensure(!can.multipart || can.max_parts > 0, "max-parts is 0")?;
    ensure(!can.multipart || can.min_part <= SEGMENT, format!("min-part is {}: a buffer has {SEGMENT}", can.min_part))
}

/// Whether something is wrong with these settings.
async fn refused(mover: &Mover, settings: &Value) -> Result<bool, Failed> {
    Ok(!mover.0.validate(&settings.to_string()).await?.is_empty())
}

async fn none(mover: &Mover) -> Result<(), String> {
    for settings in settings::none() {
        let refused =
            refused(mover, &settings).await.map_err(|failed| format!("given {settings}: {}", told(&failed)))?;
        ensure(refused, format!("it takes {settings}"))?;
    }
    Ok(())
}

async fn unknown(mover: &Mover, good: &Value) -> Result<(), String> {
    let settings = settings::unknown(good).ok_or("its settings are no mapping")?;
    let refused = refused(mover, &settings).await.map_err(|failed| told(&failed))?;
    ensure(refused, format!("it takes {UNKNOWN}: whoever mistypes a setting is not told"))
}

async fn mistyped(mover: &Mover, good: &Value) -> Result<(), String> {
    for (what, settings) in settings::mistyped(good) {
        refused(mover, &settings).await.map_err(|failed| format!("{what}: {}", told(&failed)))?;
    }
    Ok(())
}
