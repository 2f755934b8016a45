//! Makes a golden repository: `cargo run --release -p remora-tests --example golden -- tests/golden/v1`.
//! A version of the format has one, made once and never changed.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a failure ends it, and disks are small")]

use std::path::PathBuf;

#[path = "../suite/format/make.rs"]
mod make;

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("give the folder to make"));
    let truth = make::make(&folder.join("repository")).await;
    std::fs::write(folder.join("disks.json"), serde_json::to_vec_pretty(&truth).unwrap()).unwrap();
}
