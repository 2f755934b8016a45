//! What can be told of a mover before it stores anything.

use remora_core::BLOCK_SIZE;
use serde_json::Value;

use super::super::conversation::{Component, Failed};
use super::super::memory::Ledger;
use super::super::process::Child;
use super::super::wire::World;
use super::subject::{Subject, ensure, ready, told};
use crate::conformance::settings::{self, UNKNOWN};
use crate::conformance::{self, Depth, Findings};
use crate::host::check_form;

/// What a vault stores in one piece.
const SEGMENT: u64 = 64 << 20;

/// The longest piece that a call moves.
const TRANSFER: u64 = 64 << 20;

const OPENS: &str = "takes its settings and opens";

pub(super) async fn try_all(findings: &mut Findings, subject: &Subject, component: &Component, depth: Depth) {
    findings.size(&subject.component);
    let started = std::time::Instant::now();
    let fits = match check_form(&subject.component) {
        Ok(()) => start(subject).await,
        Err(error) => Err(error),
    };
    findings.figure("starting a process and compiling", started.elapsed().as_secs_f64() * 1e3, "ms", None);
    let fits = fits.map_err(|error| conformance::told(&error));
    let sound = fits.is_ok();
    let world = match subject.world {
        World::Objects => "object-store",
        World::Volumes => "volume-store",
    };
    findings.note(format!("is a component of the world {world} that imports nothing else"), fits);
    if !sound {
        return;
    }
    findings.note(
        OPENS,
        match subject.world {
            World::Objects => opens_objects(component).await,
            World::Volumes => opens_points(component).await,
        },
    );
    if depth != Depth::Bench {
        let good: Value = serde_json::from_str(&subject.settings).unwrap_or_default();
        ready(component);
        findings.note("refuses settings that are none", none(component).await);
        ready(component);
        findings.note("refuses a setting that it does not have", unknown(component, &good).await);
        ready(component);
        findings.note("settings of any type make no trap", mistyped(component, &good).await);
    }
}

async fn start(subject: &Subject) -> remora_core::Result<()> {
    let memory = Ledger::of_this_process().take()?;
    Child::start(&subject.program, &subject.component, None, subject.world, memory).await.map(drop)
}

async fn opens_objects(component: &Component) -> Result<(), String> {
    let can = component.capabilities().await.map_err(|failed| told(&failed))?;
    ensure(can.max_put >= SEGMENT, format!("max-put is {}: a vault stores {SEGMENT} bytes at once", can.max_put))?;
    ensure(!can.multipart || can.max_parts > 0, "max-parts is 0")?;
    ensure(!can.multipart || can.min_part <= SEGMENT, format!("min-part is {}: a buffer has {SEGMENT}", can.min_part))
}

async fn opens_points(component: &Component) -> Result<(), String> {
    let can = component.volume_capabilities().await.map_err(|failed| told(&failed))?;
    let fine = can.granularity.is_power_of_two() && (512..=BLOCK_SIZE).contains(&can.granularity);
    ensure(fine, format!("granularity is {}: a backup moves pieces of {BLOCK_SIZE} bytes", can.granularity))?;
    let long = (BLOCK_SIZE..=TRANSFER).contains(&can.max_transfer);
    ensure(long, format!("max-transfer is {}: {BLOCK_SIZE} to {TRANSFER} bytes make sense", can.max_transfer))
}

/// Whether something is wrong with these settings.
async fn refused(component: &Component, settings: &Value) -> Result<bool, Failed> {
    Ok(!component.validate(&settings.to_string()).await?.is_empty())
}

async fn none(component: &Component) -> Result<(), String> {
    for settings in settings::none() {
        let refused =
            refused(component, &settings).await.map_err(|failed| format!("given {settings}: {}", told(&failed)))?;
        ensure(refused, format!("it takes {settings}"))?;
    }
    Ok(())
}

async fn unknown(component: &Component, good: &Value) -> Result<(), String> {
    let settings = settings::unknown(good).ok_or("its settings are no mapping")?;
    let refused = refused(component, &settings).await.map_err(|failed| told(&failed))?;
    ensure(refused, format!("it takes {UNKNOWN}: whoever mistypes a setting is not told"))
}

async fn mistyped(component: &Component, good: &Value) -> Result<(), String> {
    for (what, settings) in settings::mistyped(good) {
        refused(component, &settings).await.map_err(|failed| format!("{what}: {}", told(&failed)))?;
    }
    Ok(())
}
