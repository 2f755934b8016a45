//! Errors as people and scripts see them, and the exit codes.

use remora_core::{Error, ErrorKind};
use serde_json::json;

use crate::args::OutputFormat;
use crate::output::printable;

/// The exit code of bad usage, as clap has it.
pub(crate) const USAGE: u8 = 2;

/// The exit code of an error. `docs/cli.md` lists them; they never change.
pub(crate) const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Invalid => USAGE,
        ErrorKind::NotFound => 3,
        ErrorKind::Exists => 4,
        ErrorKind::WrongKey => 5,
        ErrorKind::Unsupported => 6,
        ErrorKind::Damaged => 7,
        ErrorKind::Busy => 8,
        ErrorKind::Unavailable => 9,
        ErrorKind::NoSpace => 10,
        ErrorKind::Refused => 11,
        ErrorKind::Incomplete => 12,
        ErrorKind::Cancelled => 130,
    }
}

/// The name of a kind in JSON.
const fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Failed => "failed",
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Exists => "exists",
        ErrorKind::WrongKey => "wrong-key",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Damaged => "damaged",
        ErrorKind::Busy => "busy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::NoSpace => "no-space",
        ErrorKind::Refused => "refused",
        ErrorKind::Incomplete => "incomplete",
        ErrorKind::Cancelled => "cancelled",
    }
}

/// The text of an error for standard error, without a final newline.
pub(crate) fn render(error: &Error, format: OutputFormat) -> String {
    match format {
        OutputFormat::Text => {
            let mut text = format!("error: {}", printable(&error.chain()));
            if let Some(advice) = error.advice() {
                text.push_str("\n  → ");
                text.push_str(&printable(advice));
            }
            text
        }
        OutputFormat::Json => json!({"error": {
            "kind": name(error.kind()),
            "message": error.chain(),
            "advice": error.advice(),
            "exit": exit_code(error.kind()),
        }})
        .to_string(),
    }
}

#[cfg(test)]
pub(crate) const KINDS: [ErrorKind; 13] = [
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Exists,
    ErrorKind::WrongKey,
    ErrorKind::Unsupported,
    ErrorKind::Damaged,
    ErrorKind::Busy,
    ErrorKind::Unavailable,
    ErrorKind::NoSpace,
    ErrorKind::Refused,
    ErrorKind::Incomplete,
    ErrorKind::Cancelled,
    ErrorKind::Failed,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_exit_code_and_a_name_of_its_own_in_the_guide() {
        let guide = include_str!("../../../docs/cli.md");
        let mut seen = std::collections::HashSet::new();
        for kind in KINDS {
            let row = format!("| {} | `{}` |", exit_code(kind), name(kind));
            assert!(guide.contains(&row), "docs/cli.md lacks {row:?}");
            assert!(seen.insert(exit_code(kind)), "{kind:?} shares its exit code");
        }
        assert!(!seen.contains(&0));
    }

    #[test]
    fn an_error_says_what_to_do_and_cannot_play_tricks_on_the_terminal() {
        let error = Error::new(ErrorKind::NotFound, "no VM \"a\u{1b}[2J\nb\"").because("c").advise("Look again.");
        assert_eq!(render(&error, OutputFormat::Text), "error: no VM \"a\\u{1b}[2J\\nb\": c\n  → Look again.");
        let json: serde_json::Value = serde_json::from_str(&render(&error, OutputFormat::Json)).unwrap();
        assert_eq!(json["error"]["kind"], "not-found");
        assert_eq!(json["error"]["exit"], 3);
        assert_eq!(json["error"]["message"], "no VM \"a\u{1b}[2J\nb\": c");
        assert_eq!(json["error"]["advice"], "Look again.");
        assert!(render(&Error::new(ErrorKind::Failed, "x"), OutputFormat::Json).contains("\"advice\":null"));
    }
}
