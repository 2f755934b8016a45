//! What a verification finds of points, and what a repair makes of it.

use std::sync::Arc;

use serde::Serialize;

use super::DiskView;
use crate::name::{DiskName, PointId};
use crate::range::ByteRange;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Bytes of sealed objects read and authenticated.
    pub checked: u64,
    /// What is damaged; empty for a sound point.
    pub damage: Vec<Damage>,
}

/// What damage means for the bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// They cannot be read.
    Lost,
    /// They restore as they were: only what is used to compare, or to know an object by itself, is not what was written.
    Readable,
}

/// A stretch of a point that rests on a damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The disk.
    pub disk: DiskName,
    /// Which stretch of it.
    pub range: ByteRange,
    /// Whether it is lost.
    pub effect: Effect,
    /// The object in the store that is missing or damaged.
    pub object: String,
    /// How it was noticed.
    pub why: String,
}

/// A point that a verification found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPoint {
    /// The point.
    pub point: PointId,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

/// The disks of a VM as they are now.
#[derive(Clone, Copy)]
pub enum VmDisks<'a> {
    /// Those that it has and that are wanted.
    Open(&'a [Arc<dyn DiskView>]),
    /// They cannot be read; the text says why.
    NotOpen(&'a str),
}

/// A stretch of a point that was damaged, and what a repair made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The point.
    pub point: PointId,
    /// The disk.
    pub disk: DiskName,
    /// Which stretch of it.
    pub range: ByteRange,
    /// What it was.
    pub effect: Effect,
    /// What it is now.
    pub repair: Repair,
}

/// What a repair made of a stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is sound.
    Done,
    /// It is as it was, and why.
    Not(String),
}
