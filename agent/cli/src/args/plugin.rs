//! What `remora plugin` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
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
    /// A server of a mover's protocol, such as http://127.0.0.1:9000; else a server of plain objects is brought along
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// A secret of a mover, and the file that holds it; may be repeated
    #[arg(long = "secret", value_name = "NAME=FILE", value_parser = secret)]
    pub(crate) secrets: Vec<(String, PathBuf)>,
    /// What random questions and bytes come from: the same number, the same trials
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many random questions a policy is asked
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) questions: usize,
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
