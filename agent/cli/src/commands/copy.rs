//! `remora copy`

use std::collections::BTreeSet;

use remora_core::point::Decision;
use remora_core::{Error, ErrorKind, PointId, Result};
use remora_engine::CopyReport;
use remora_vault::Vault;
use serde::Serialize;

use super::renew::renew;
use crate::args;
use crate::context::Context;
use crate::output::{bytes, print, printable};
use crate::secret::{self, Ask, SecretFrom};

#[derive(Serialize)]
struct Report {
    copied: Vec<Copied>,
    there: u64,
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct Copied {
    from: PointId,
    point: PointId,
    decision: Decision,
    read: u64,
    stored: u64,
}

#[derive(Serialize)]
struct Damaged {
    point: PointId,
    why: String,
}

pub(super) async fn run(context: &Context, args: args::Copy) -> Result<()> {
    let (from, to) = open(context, &args).await?;
    let shown = context.progress("copying");
    let report = remora_engine::copy(&from, &to, &args.points, shown.port(), context.cancel.clone()).await?;
    drop(shown);
    let vms: BTreeSet<_> = report.copied.iter().map(|copied| copied.point.vm.clone()).collect();
    for vm in &vms {
        renew(context, &to, vm).await;
    }
    let report = Report::from(report);
    print(context.format(), &report, text)?;
    if report.damaged.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = report.damaged.iter().map(|damaged| damaged.point.to_string()).collect();
    Err(Error::new(ErrorKind::Damaged, format!("damaged points were not copied: {}", named.join(", ")))
        .advise("Run `remora verify` on the repository that is copied from to learn what is lost."))
}

/// Both repositories. The one that is copied from has the same secret as the other, unless another one is named.
async fn open(context: &Context, args: &args::Copy) -> Result<(Vault, Vault)> {
    let location = |url: &Option<String>| match url {
        Some(url) => url.parse(),
        None => context.location(),
    };
    let (from, to) = (location(&args.from)?, location(&args.to)?);
    let secret = context.secret(Ask::Once)?;
    let to = context.open(&to, &secret).await?;
    let other = match (&args.from_key_file, &args.from_passphrase_file) {
        (Some(file), _) => Some(SecretFrom::KeyFile(file.clone())),
        (None, file) => file.clone().map(SecretFrom::PassphraseFile),
    };
    let from_secret = match &other {
        Some(other) => secret::get(other, &context.environment, Ask::Once)?,
        None => secret,
    };
    let from = context.open(&from, &from_secret).await.map_err(|error| {
        if error.kind() == ErrorKind::WrongKey && other.is_none() {
            return error.advise("Name what opens it with --from-passphrase-file or --from-key-file.");
        }
        error
    })?;
    Ok((from, to))
}

impl From<CopyReport> for Report {
    fn from(report: CopyReport) -> Self {
        let copied = report.copied.into_iter().map(|one| Copied {
            from: one.from,
            decision: one.point.decision,
            read: one.point.disks.iter().map(|disk| disk.read).sum(),
            stored: one.point.stored,
            point: one.point.id,
        });
        let damaged = report.damaged.into_iter().map(|(point, error)| Damaged { point, why: error.chain() });
        Self { copied: copied.collect(), there: report.there, damaged: damaged.collect() }
    }
}

fn text(report: &Report) -> String {
    let copied = report.copied.iter().map(|one| {
        let (read, stored) = (bytes(one.read), bytes(one.stored));
        format!("{} is {} there ({}, {read} read, {stored} stored)\n", one.from, one.point, one.decision)
    });
    let damaged = report.damaged.iter().map(|one| format!("{} is damaged: {}\n", one.point, printable(&one.why)));
    let there = match report.there {
        0 => String::new(),
        there => format!("{there} points were there already\n"),
    };
    copied.chain(damaged).chain([there]).collect()
}
