//! The document of a mover.
//!
//! ```yaml
//! kind: Mover
//! name: acme
//! module: file:acme.wasm
//! digest: sha256:…
//! settings: {endpoint: "https://s3.example.com", bucket: backups}
//! network:
//!   allow: [s3.example.com:443]
//! secrets:
//!   secret-key: secrets/acme
//! ```
//!
//! `docs/plugins.md` describes each field.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use remora_core::{Error, Result};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::broker::Rules;
use crate::documents::{At, Node, Settings};
use crate::host::Digest;
use crate::network::Grants;
use crate::reference::ModuleRef;

/// A call of a mover takes at most so long unless its document says otherwise.
const TIMEOUT: Duration = Duration::from_mins(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoverYaml {
    kind: Spanned<String>,
    name: Spanned<String>,
    module: Spanned<String>,
    digest: Option<Spanned<String>>,
    settings: Option<Spanned<Node>>,
    #[serde(default)]
    network: NetworkYaml,
    #[serde(default)]
    secrets: BTreeMap<String, PathBuf>,
    timeout: Option<Spanned<String>>,
    volume: Option<VolumeYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct VolumeYaml {
    disks_in_the_clear: Vec<Spanned<String>>,
    read_back: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct NetworkYaml {
    allow: Vec<Spanned<String>>,
    addresses: Vec<Spanned<String>>,
    plain_http: bool,
    ca_file: Option<PathBuf>,
}

/// What a document says. Paths are as they stand there.
pub(super) struct MoverDocument {
    pub(super) module: ModuleRef,
    pub(super) line: u64,
    /// The module's, if the document pins it.
    pub(super) digest: Option<Digest>,
    pub(super) settings: Settings,
    pub(super) rules: Rules,
    pub(super) grants: Grants,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) secrets: BTreeMap<String, PathBuf>,
    pub(super) timeout: Duration,
    /// If it keeps points in a form of its own: what it may see.
    pub(super) volume: Option<Grant>,
}

/// What a mover of points may see, and how much of what it stored is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The names of the machines whose disks it may see; one may end in a star.
    pub(super) machines: Vec<String>,
    pub(super) read_back: ReadBack,
}

impl Grant {
    /// Whether it may see this machine's disks.
    pub(super) fn covers(&self, machine: &str) -> bool {
        self.machines.iter().any(|granted| match granted.strip_suffix('*') {
            Some(beginning) => machine.starts_with(beginning),
            None => granted == machine,
        })
    }
}

/// How much of what was stored is read back before its point is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadBack {
    Full,
    /// So many percent; its points are listed as sampled.
    Percent(u8),
}

/// Where errors of a mover's document are.
pub(super) fn at(file: &str) -> At<'_> {
    At { file, guide: "docs/plugins.md lists the fields of a mover's document." }
}

/// Reads the document of the mover `name` in a file; `file` is what errors call it.
pub(super) fn parse(file: &str, name: &str, text: &str) -> Result<MoverDocument> {
    let at = at(file);
    let yaml: MoverYaml = at.yaml(text)?;
    if yaml.kind.value != "Mover" {
        let line = Some(yaml.kind.referenced.line());
        return Err(at.error(line, format!("kind: it is {:?}", yaml.kind.value)).advise("Here it is Mover."));
    }
    let line = Some(yaml.name.referenced.line());
    if at.name(yaml.name)? != name {
        return Err(at.error(line, "name: the file has another one").advise(format!("Name it {name}, as the file.")));
    }
    let digest = yaml.digest.as_ref().map(|digest| {
        let wrong = |why: String| {
            at.error(Some(digest.referenced.line()), format!("digest: {why}"))
                .advise("Write it as sha256: and what `sha256sum` prints of the module.")
        };
        let hex = digest.value.strip_prefix("sha256:").ok_or_else(|| wrong(format!("{:?} is none", digest.value)))?;
        Digest::try_from(hex.to_owned()).map_err(wrong)
    });
    let module = at.module("module", &yaml.module)?;
    let each = |field: &str, texts: &[Spanned<String>], check: &dyn Fn(&str) -> Result<()>| -> Result<()> {
        texts
            .iter()
            .try_for_each(|text| check(&text.value).map_err(|error| placed(&at, text.referenced.line(), field, &error)))
    };
    let network = yaml.network;
    let volume = yaml.volume.map(|volume| grant(&at, volume)).transpose()?;
    each("network.allow", &network.allow, &|text| Rules::new([text], false).map(drop))?;
    each("network.addresses", &network.addresses, &|text| Grants::parse([text]).map(drop))?;
    Ok(MoverDocument {
        module,
        line: yaml.module.referenced.line(),
        digest: digest.transpose()?,
        settings: yaml.settings.map(Settings::new).unwrap_or_default(),
        rules: Rules::new(network.allow.iter().map(|text| text.value.as_str()), network.plain_http)?,
        grants: Grants::parse(network.addresses.iter().map(|text| text.value.as_str()))?,
        ca_file: network.ca_file,
        secrets: yaml.secrets,
        timeout: yaml.timeout.map_or(Ok(TIMEOUT), |text| at.length("timeout", &text))?,
        volume,
    })
}

fn grant(at: &At<'_>, yaml: VolumeYaml) -> Result<Grant> {
    for machine in &yaml.disks_in_the_clear {
        let name = machine.value.strip_suffix('*').unwrap_or(&machine.value);
        if machine.value.is_empty() || name.contains('*') {
            let what = format!("volume.disksInTheClear: {:?} names no machine", machine.value);
            return Err(at
                .error(Some(machine.referenced.line()), what)
                .advise("Write the names of machines, or their beginnings with a star at the end: db-*."));
        }
    }
    let read_back = yaml.read_back.map_or(Ok(ReadBack::Full), |text| {
        let percent = text.value.strip_suffix('%').and_then(|percent| percent.parse().ok());
        match (text.value.as_str(), percent) {
            ("full", _) => Ok(ReadBack::Full),
            (_, Some(percent @ 1..=99)) => Ok(ReadBack::Percent(percent)),
            _ => {
                let what = format!("volume.readBack: {:?} is neither full nor a part", text.value);
                Err(at.error(Some(text.referenced.line()), what).advise("Write it as full, or as 5%."))
            }
        }
    });
    let machines = yaml.disks_in_the_clear.into_iter().map(|machine| machine.value).collect();
    Ok(Grant { machines, read_back: read_back? })
}

fn placed(at: &At<'_>, line: u64, field: &str, error: &Error) -> Error {
    at.error(Some(line), format!("{field}: {error}")).advise(error.advice().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "\
kind: Mover
name: acme
module: file:acme.wasm
settings:
  bucket: backups
network:
  allow: [s3.example.com:443]
  addresses: [10.1.0.0/16]
secrets: {secret-key: /etc/remora/acme}
timeout: 30s
";

    #[test]
    fn a_document_is_read_with_the_lines_of_its_settings() {
        let document = parse("acme.yaml", "acme", ACME).unwrap_or_else(|e| panic!("{}", e.chain()));
        assert_eq!(document.settings.json(), r#"{"bucket":"backups"}"#);
        assert_eq!((document.settings.line("/bucket"), document.timeout), (Some(5), Duration::from_secs(30)));
        assert_eq!(document.secrets["secret-key"], PathBuf::from("/etc/remora/acme"));
    }

    #[test]
    fn a_mover_sees_the_machines_that_it_was_bound_to() {
        let volume = |lines: &str| parse("acme.yaml", "acme", &format!("{ACME}volume:\n{lines}"));
        let grant = volume("  disksInTheClear: [db-*, web]\n  readBack: 5%\n").unwrap().volume.unwrap();
        assert_eq!(grant.read_back, ReadBack::Percent(5));
        let covered = ["db-", "db-1", "web", "web-1", "d", "other"].map(|machine| grant.covers(machine));
        assert_eq!(covered, [true, true, true, false, false, false]);
        assert_eq!(parse("acme.yaml", "acme", ACME).unwrap().volume, None);
        for (lines, line) in [
            ("  disksInTheClear: ['a*b']\n", 12),
            ("  disksInTheClear: ['']\n", 12),
            ("  disksInTheClear: [a]\n  readBack: 100%\n", 13),
            ("  disksInTheClear: [a]\n  readBack: half\n", 13),
        ] {
            let error = volume(lines).err().unwrap();
            assert!(error.to_string().starts_with(&format!("acme.yaml, line {line}: ")), "{lines}: {error}");
        }
    }

    #[test]
    fn every_error_names_the_file_and_the_line() {
        for (from, to, line) in [
            ("kind: Mover", "kind: Policy", 1),
            ("name: acme", "name: other", 2),
            ("file:acme.wasm", "acme.wasm", 3),
            ("settings:", "digest: sha256:00\nsettings:", 4),
            ("s3.example.com:443", "s3.example.com", 7),
            ("10.1.0.0/16", "10.1/16", 8),
            ("addresses", "adresses", 8),
            ("30s", "soon", 10),
        ] {
            let error = parse("acme.yaml", "acme", &ACME.replacen(from, to, 1)).err().unwrap();
            assert!(error.to_string().starts_with(&format!("acme.yaml, line {line}: ")), "{to}: {error}");
            assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{to}");
        }
    }
}
