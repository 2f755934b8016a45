//! What a mover does that kills its call, or would.

use std::hint::black_box;

use remora_sdk::objects::log;

/// Does what is asked for in this function.
pub(crate) fn misbehave(how: &str, function: &str) {
    match how.split_once(" in ") {
        Some((how, wanted)) if wanted == function => match how {
            "trap" => panic!(),
            "loop" => loop {
                black_box(());
            },
            "memory" => grow(),
            "lines" => loop {
                log::write(log::Level::Error, &"x".repeat(10_000));
            },
            _ => {}
        },
        _ => {}
    }
}

fn grow() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1; 1 << 20]));
    }
}
