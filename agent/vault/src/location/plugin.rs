//! A plugin's store, as a URL names it.

use std::fmt;

use object_store::path::Path;
use remora_core::{Error, ErrorKind};

/// What such a URL begins with.
pub(super) const SCHEME: &str = "plugin:";

/// A plugin, and the folder in its store that the repository fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) prefix: Path,
}

impl Plugin {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("repository {text:?}: {why}"))
                .advise("Give plugin:NAME/prefix; what else the plugin needs stands in its document.")
        };
        let rest = text.strip_prefix(SCHEME).unwrap_or_default();
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // It names a file.
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.is_empty() || name.starts_with('.') || name.len() > 63 || !plain {
            return Err(invalid("its name is no plugin's: letters, digits, '-', '_' and '.', at most 63"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        let prefix = Path::parse(prefix).ok().filter(|prefix| prefix.as_ref().bytes().all(plain));
        let prefix = prefix.ok_or_else(|| invalid("its prefix is no path of letters, digits, '-', '_' and '.'"))?;
        Ok(Self { name: name.into(), prefix })
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.name, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use crate::location::Location;

    #[test]
    fn a_url_names_plugin_and_prefix_and_no_file_elsewhere() {
        for (text, shown) in [
            ("plugin:acme/a/b", "plugin:acme/a/b"),
            ("plugin:acme", "plugin:acme/"),
            ("plugin:acme/", "plugin:acme/"),
            ("plugin:acme/a/", "plugin:acme/a"),
        ] {
            let location = text.parse::<Location>().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(location.mover(), shown.trim_start_matches("plugin:").split_once('/'));
        }
        for text in [
            "plugin:",
            "plugin:/a",
            "plugin:../a",
            "plugin:.a/b",
            "plugin:a b/c",
            "plugin:a/b//c",
            "plugin:a/..",
            "plugin:a/b c",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert!(error.advice().unwrap().contains("plugin:NAME/prefix"), "{text}");
        }
    }
}
