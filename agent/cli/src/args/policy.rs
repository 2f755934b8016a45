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
    Explain(Box<Explain>),
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
    /// What the cluster lets the user do with the VM, such as `get virtualmachines`; may be repeated
    #[arg(long = "grant", value_name = "GRANT", requires = "user", value_parser = grant)]
    pub(crate) grants: Vec<String>,
    /// Who has consented to the request, just now and for an hour; may be repeated
    #[arg(long, value_name = "USER", requires = "user")]
    pub(crate) approved_by: Vec<String>,
    /// A group of those who have consented; may be repeated
    #[arg(long = "approver-group", value_name = "NAME", requires = "approved_by")]
    pub(crate) approver_groups: Vec<String>,
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

/// A policy compares grants as they are: one that is written otherwise would be none.
fn grant(text: &str) -> Result<String, String> {
    let words: Vec<_> = text.split(' ').collect();
    match words[..] {
        [verb, resource] if !verb.is_empty() && !resource.is_empty() => Ok(text.to_owned()),
        _ => Err("a verb and a resource are wanted, such as \"get virtualmachines\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::args::tests::parse;

    const ASKED: &[&str] = &["policy", "explain", "/etc", "--vm", "db", "--user", "alice", "--file", "/x"];

    #[test]
    fn a_grant_is_a_verb_and_a_resource() {
        for fine in ["get virtualmachines", "update virtualmachines/status"] {
            assert_eq!(grant(fine), Ok(fine.to_owned()));
        }
        for wrong in ["", "get", "get  virtualmachines", " get virtualmachines", "get virtualmachines "] {
            assert!(grant(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn grants_and_approvals_are_repeated_and_belong_to_a_request() {
        let more = ["--grant", "get vms", "--grant", "list vms", "--approved-by", "bob", "--approver-group", "leads"];
        let Ok(Command::Policy { command: PolicyCommand::Explain(asked) }) =
            parse(&[ASKED, &more].concat()).map(|cli| cli.command)
        else {
            panic!("it is not taken");
        };
        assert_eq!(asked.grants, ["get vms", "list vms"]);
        assert_eq!(asked.approved_by, ["bob"]);
        assert_eq!(asked.approver_groups, ["leads"]);
        let (alone, asked) = (&ASKED[..5], ASKED);
        for (before, flag, value) in [
            (alone, "--grant", "get vms"),
            (alone, "--approved-by", "bob"),
            (asked, "--approver-group", "leads"),
            (asked, "--grant", "get"),
        ] {
            assert!(parse(&[before, &[flag, value]].concat()).is_err(), "{flag}");
        }
    }
}
