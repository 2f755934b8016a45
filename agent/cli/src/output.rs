//! Results on standard output.

use std::io::Write;

use remora_core::{Error, Result};
use serde::Serialize;

use crate::args::OutputFormat;

/// Writes a result, as JSON or as the text that `text` makes.
pub(crate) fn print<T: Serialize>(format: OutputFormat, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    let mut rendered = match format {
        OutputFormat::Text => text(result),
        OutputFormat::Json => {
            serde_json::to_string_pretty(result).map_err(|e| Error::io("writing JSON", std::io::Error::other(e)))?
        }
    };
    if !rendered.is_empty() && !rendered.ends_with('\n') {
        rendered.push('\n');
    }
    write_out(&rendered)
}

/// Writes one line at once: `text`, or the result as JSON.
pub(crate) fn print_line<T: Serialize>(format: OutputFormat, result: &T, text: &str) -> Result<()> {
    match format {
        OutputFormat::Text => write_out(&format!("{text}\n")),
        OutputFormat::Json => {
            let json = serde_json::to_string(result);
            write_out(&format!("{}\n", json.map_err(|e| Error::io("writing JSON", std::io::Error::other(e)))?))
        }
    }
}

/// Says a line on standard error. That nobody listens any more is no failure of what is being done: `eprintln!` would
/// panic, in the middle of a backup.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// Where log lines go, one at a write: to standard error, as [`printable`] and [`say`] have it.
pub(crate) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        say(&printable(String::from_utf8_lossy(line).trim_end_matches('\n')));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes text to standard output.
pub(crate) fn write_out(rendered: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(rendered.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough: `remora points | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|e| Error::io("writing to standard output", e)),
    }
}

/// Text of foreign origin with its control characters escaped, so that a VM's or file's name cannot command the
/// terminal. Characters that reorder the line go too.
pub(crate) fn printable(text: &str) -> String {
    let tricky = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if tricky(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Bytes for people, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// Rows in columns, each as wide as its widest cell; the first row is the heading.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(printable("a\n\u{1b}]0;x\u{7}\u{9b}1m\u{202e}ž €"), "a\\n\\u{1b}]0;x\\u{7}\\u{9b}1m\\u{202e}ž €");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("A", "B"), row("čč", "x"), row("c", "")]), "A   B\nčč  x\nc\n");
    }
}
