//! What `remora policy` is told.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use remora_core::VmName;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Load policies as the agent would, and tell what is wrong with each
    Lint {
        /// A folder of documents, or one document
        path: PathBuf,
    },
    /// Run golden cases: questions to policies, and the answers that they must give
    Test {
        /// The file of cases
        file: PathBuf,
    },
    /// Tell which policy says what of a VM, and of a request for a file, and why
    Explain(Explain),
}

/// What to ask policies.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// A folder of documents, or one document
    pub(crate) path: PathBuf,
    /// The VM's name
    #[arg(long, value_name = "NAME", value_parser = VmName::from_str)]
    pub(crate) vm: VmName,
    /// A label of the VM; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// The VM's namespace
    #[arg(long, default_value = "")]
    pub(crate) namespace: String,
    /// As if it were this time; else now
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    /// Ask what is kept of the VM's points in the repository, too; nothing is dropped
    #[arg(long, conflicts_with = "at")]
    pub(crate) points: bool,
    /// Ask about this file too, by its path in the served tree
    #[arg(long, value_name = "PATH", requires = "user")]
    pub(crate) file: Option<String>,
    /// The user who wants the file
    #[arg(long, value_name = "NAME", requires = "file")]
    pub(crate) user: Option<String>,
    /// A group of the user; may be repeated
    #[arg(long = "group", value_name = "NAME", requires = "user")]
    pub(crate) groups: Vec<String>,
    /// What is wanted of the file
    #[arg(long, value_enum, default_value_t = ActionArg::Read, value_name = "ACTION")]
    pub(crate) action: ActionArg,
}

/// [`remora_core::policy::Action`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActionArg {
    /// The names in a folder.
    List,
    /// Its size, owner and times.
    Stat,
    /// Its bytes.
    Read,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is wanted")?;
    Ok((key.to_owned(), value.to_owned()))
}
