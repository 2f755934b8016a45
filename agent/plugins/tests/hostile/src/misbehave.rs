//! What a mover of either kind does that kills its call, or would.

use std::hint::black_box;

use remora_sdk::objects::{Secret, log};

#[path = "exhaust.rs"]
mod exhaust;

use exhaust::{deeper, grow};

/// Does what is asked for in this function.
pub(crate) fn misbehave(how: &str, function: &str) {
    match how.split_once(" in ") {
        Some((how, wanted)) if wanted == function => match how {
            "trap" => panic!(),
            "loop" => loop {
                black_box(());
            },
            "memory" => grow(),
            "recursion" => drop(black_box(deeper(black_box(1)))),
            "secrets" => {
                let mut kept = Vec::new();
                loop {
                    kept.push(Secret::get("canary"));
                }
            }
            "long secrets" => {
                let mut secret = Secret::get("canary").ok();
                loop {
                    secret = secret.map(|secret| secret.prefixed(&"x".repeat(60_000)));
                }
            }
            "lines" => loop {
                log::write(log::Level::Error, &"x".repeat(10_000));
            },
            _ => {}
        },
        _ => {}
    }
}
