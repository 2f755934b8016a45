//! What `remora plugin` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Make a folder with a policy or a mover that works, the SDK, and how to build it
    New(New),
    /// Look at a component as the host does: its form, its world, its settings
    Check(Plugin),
    /// Try all that a policy or a mover must hold, on the host that runs it in production
    Test(Plugin),
    /// Measure how long a policy or a mover takes
    Bench(Plugin),
}

/// A component, and what it is tried with.
#[derive(Args, Debug)]
pub(crate) struct Plugin {
    /// The component
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its settings, YAML or JSON; of a mover with {endpoint} where the server's URL belongs
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// Settings that a policy is to refuse: a list of {settings, field}
    #[arg(long, value_name = "FILE")]
    pub(crate) refused: Option<PathBuf>,
    /// Golden cases of a policy, as `remora policy test` runs them; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) cases: Vec<PathBuf>,
    /// A server of a mover's protocol, such as http://127.0.0.1:9000; for objects a plain one is brought along, for points none
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// A secret of a mover, and the file or the pipe that holds it; may be repeated
    #[arg(long = "secret", value_name = "NAME=FILE", value_parser = secret)]
    pub(crate) secrets: Vec<(String, PathBuf)>,
    /// What random questions and bytes come from: the same number, the same trials
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many random questions a policy is asked
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) questions: usize,
    /// Fail if a figure is over its budget, too; on a machine with nothing else to do
    #[arg(long)]
    pub(crate) strict: bool,
    /// Write the report as JSON into this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text
        .split_once('=')
        .filter(|(name, file)| !name.is_empty() && !file.is_empty())
        .ok_or("NAME=FILE is wanted")?;
    Ok((name.to_owned(), file.into()))
}

/// What to make.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// What it is written in
    #[arg(value_enum)]
    pub(crate) language: Language,
    /// What it is
    #[arg(value_enum)]
    pub(crate) kind: NewKind,
    /// Its name, and the folder's: lower-case letters, digits and dashes
    #[arg(value_parser = name)]
    pub(crate) name: String,
}

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Rust.
    Rust,
    /// JavaScript.
    #[value(name = "javascript")]
    JavaScript,
    /// Python.
    Python,
    /// Go.
    Go,
}

/// What a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewKind {
    /// A policy.
    Policy,
    /// A mover.
    Mover,
}

/// What the tools of all languages take for a name, and documents too.
fn name(text: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let letter_first = text.starts_with(|c: char| c.is_ascii_lowercase());
    if letter_first && text.len() <= 40 && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err("a lower-case letter, then such letters, digits and dashes are wanted, at most 40".into())
}
