//! The end-to-end suite: one binary, so that all of its tests share one lab.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod agent;
mod build;
mod cases;
mod changed_only;
mod copies;
mod documented;
mod format;
mod guest_works;
mod hostile;
mod keys;
mod lab_works;
mod languages;
mod layouts;
mod plugins;
mod policies;
mod settings;
mod source;
mod stores;
mod terminal;
mod threats;
mod upkeep;
