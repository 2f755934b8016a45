//! `remora hold`

use jiff::Timestamp;
use remora_core::{Error, ErrorKind, PointId, Result};
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
    // A slip of the year would else be no hold at all, and nobody would know until the point is gone.
    if let Some(until) = args.until.filter(|until| *until <= Timestamp::now()) {
        return Err(Error::new(ErrorKind::Invalid, format!("holding point {}: {until} is over already", args.point))
            .advise("Give a time to come, or end a hold with --clear."));
    }
    let kept = args.until.map_or(Kept::AsRulesSay, Kept::Until);
    context.vault().await?.hold(&args.point, kept).await?;
    let held = Held { point: args.point, until: args.until };
    print(context.format(), &held, |held| match held.until {
        Some(until) => format!("Point {} is held until {until}.", held.point),
        None => format!("Point {} is not held any more.", held.point),
    })
}
