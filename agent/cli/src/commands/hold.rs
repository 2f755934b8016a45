//! `remora hold`

use jiff::Timestamp;
use remora_core::{PointId, Result};
use remora_vault::Kept;
use serde::Serialize;

use crate::args;
use crate::context::Context;
use crate::output::print;

/// The result; the shape is a contract.
#[derive(Serialize)]
struct Held {
    point: PointId,
    until: Option<Timestamp>,
}

pub(super) async fn run(context: &Context, args: args::Hold) -> Result<()> {
    let kept = args.until.map_or(Kept::AsRulesSay, Kept::Until);
    context.vault().await?.hold(&args.point, kept).await?;
    let held = Held { point: args.point, until: args.until };
    print(context.format(), &held, |held| match held.until {
        Some(until) => format!("Point {} is held until {until}.", held.point),
        None => format!("Point {} is not held any more.", held.point),
    })
}
