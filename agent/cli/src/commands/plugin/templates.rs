//! The templates of `remora plugin new`: `sdk/templates`, with the SDK and the interfaces that they are built with, and
//! what the examples have of each language's tools.

use std::borrow::Cow;

use remora_core::{Error, ErrorKind, Result};

use crate::args::{Language, NewKind};

/// A file of a template.
#[derive(Clone, Copy)]
pub(super) struct File {
    /// Where it lies in remora's repository.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look for files that were left out"))]
    from: &'static str,
    /// Where it goes in the new folder.
    pub(super) path: &'static str,
    text: &'static str,
}

impl File {
    /// What is written for a plugin of this name.
    pub(super) fn contents(&self, name: &str) -> Cow<'static, str> {
        match self.path {
            "remora/sdk/rust/Cargo.toml" => Cow::Owned(out_of_our_workspace(self.text)),
            path if path.starts_with("remora/") => Cow::Borrowed(self.text),
            _ => Cow::Owned(self.text.replace("{{name}}", name)),
        }
    }

    /// Its permissions.
    pub(super) fn mode(&self) -> u32 {
        if self.path == "build" { 0o777 } else { 0o666 }
    }
}

/// The SDK's manifest for a workspace of somebody else's, of which it is a member by where it lies.
fn out_of_our_workspace(manifest: &str) -> String {
    let ours = |line: &&str| line.starts_with("workspace = ") || line.starts_with("# Beside the policies");
    manifest.lines().filter(|line| !ours(line)).flat_map(|line| [line, "\n"]).collect()
}

/// The files for a plugin of that kind in that language.
pub(super) fn template(language: Language, kind: NewKind) -> Result<Vec<File>> {
    let parts: &[&[File]] = match (kind, language) {
        (NewKind::Policy, Language::Rust) => &[RUST_POLICY, RUST, POLICY_WIT, MOVER_WIT],
        (NewKind::Policy, Language::JavaScript) => &[JAVASCRIPT_POLICY, POLICY_WIT],
        (NewKind::Policy, Language::Python) => &[PYTHON_POLICY, POLICY_WIT],
        (NewKind::Policy, Language::Go) => &[GO_POLICY, POLICY_WIT],
        (NewKind::Mover, Language::Rust) => &[RUST_MOVER, RUST, POLICY_WIT, MOVER_WIT],
        (NewKind::Mover, _) => {
            return Err(Error::new(ErrorKind::Unsupported, "there is a template of a mover in Rust only").advise(
                "Write it in Rust, or make bindings of wit/mover with the tools of your language: docs/plugins.md.",
            ));
        }
    };
    Ok(parts.concat())
}

macro_rules! files {
    ($name:ident, $($from:literal => $path:literal,)*) => {
        const $name: &[File] = &[$(File {
            from: $from,
            path: $path,
            text: include_str!(concat!("../../../../../", $from)),
        }),*];
    };
}

files! {
    RUST_POLICY,
    "sdk/templates/rust-policy/Cargo.toml" => "Cargo.toml",
    "sdk/templates/rust-policy/README.md" => "README.md",
    "sdk/templates/rust-policy/build" => "build",
    "sdk/templates/rust-policy/cases.yaml" => "cases.yaml",
    "sdk/templates/rust-policy/gitignore" => ".gitignore",
    "sdk/templates/rust-policy/policy.yaml" => "policy.yaml",
    "sdk/templates/rust-policy/src/lib.rs" => "src/lib.rs",
}

files! {
    RUST_MOVER,
    "sdk/templates/rust-mover/Cargo.toml" => "Cargo.toml",
    "sdk/templates/rust-mover/README.md" => "README.md",
    "sdk/templates/rust-mover/build" => "build",
    "sdk/templates/rust-mover/gitignore" => ".gitignore",
    "sdk/templates/rust-mover/mover.yaml" => "mover.yaml",
    "sdk/templates/rust-mover/settings.yaml" => "settings.yaml",
    "sdk/examples/plain/src/lib.rs" => "src/lib.rs",
    "sdk/examples/plain/src/plain.rs" => "src/plain.rs",
}

files! {
    JAVASCRIPT_POLICY,
    "sdk/templates/javascript-policy/README.md" => "README.md",
    "sdk/templates/javascript-policy/build" => "build",
    "sdk/templates/javascript-policy/cases.yaml" => "cases.yaml",
    "sdk/templates/javascript-policy/gitignore" => ".gitignore",
    "sdk/templates/javascript-policy/policy.js" => "policy.js",
    "sdk/templates/javascript-policy/policy.yaml" => "policy.yaml",
    "sdk/examples/acl-javascript/package.json" => "package.json",
    "sdk/examples/acl-javascript/package-lock.json" => "package-lock.json",
    "sdk/javascript/remora.js" => "remora/remora.js",
}

files! {
    PYTHON_POLICY,
    "sdk/templates/python-policy/README.md" => "README.md",
    "sdk/templates/python-policy/build" => "build",
    "sdk/templates/python-policy/cases.yaml" => "cases.yaml",
    "sdk/templates/python-policy/gitignore" => ".gitignore",
    "sdk/templates/python-policy/policy.py" => "policy.py",
    "sdk/templates/python-policy/policy.yaml" => "policy.yaml",
    "sdk/examples/acl-python/requirements.txt" => "requirements.txt",
    "sdk/python/remora_sdk/__init__.py" => "remora/remora_sdk/__init__.py",
    "sdk/python/remora_sdk/authorize.py" => "remora/remora_sdk/authorize.py",
    "sdk/python/remora_sdk/retention.py" => "remora/remora_sdk/retention.py",
    "sdk/python/remora_sdk/schedule.py" => "remora/remora_sdk/schedule.py",
    "sdk/python/remora_sdk/select.py" => "remora/remora_sdk/select.py",
}

files! {
    GO_POLICY,
    "sdk/templates/go-policy/README.md" => "README.md",
    "sdk/templates/go-policy/build" => "build",
    "sdk/templates/go-policy/cases.yaml" => "cases.yaml",
    "sdk/templates/go-policy/gitignore" => ".gitignore",
    "sdk/templates/go-policy/go.mod" => "go.mod",
    "sdk/templates/go-policy/policy.go" => "policy.go",
    "sdk/templates/go-policy/policy.yaml" => "policy.yaml",
    "sdk/go/authorize/authorize.go" => "remora/go/authorize/authorize.go",
    "sdk/go/go.mod" => "remora/go/go.mod",
    "sdk/go/internal/abi/abi.go" => "remora/go/internal/abi/abi.go",
    "sdk/go/no-wasi.wat" => "remora/go/no-wasi.wat",
    "sdk/go/remora.go" => "remora/go/remora.go",
    "sdk/go/retention/retention.go" => "remora/go/retention/retention.go",
    "sdk/go/schedule/schedule.go" => "remora/go/schedule/schedule.go",
    "sdk/go/selection/selection.go" => "remora/go/selection/selection.go",
}

files! {
    RUST,
    "sdk/rust/Cargo.toml" => "remora/sdk/rust/Cargo.toml",
    "sdk/rust/src/bindings.rs" => "remora/sdk/rust/src/bindings.rs",
    "sdk/rust/src/lib.rs" => "remora/sdk/rust/src/lib.rs",
    "sdk/rust/src/objects.rs" => "remora/sdk/rust/src/objects.rs",
    "sdk/rust/src/objects/answers.rs" => "remora/sdk/rust/src/objects/answers.rs",
    "sdk/rust/src/settings.rs" => "remora/sdk/rust/src/settings.rs",
    "sdk/rust/src/settings/fault.rs" => "remora/sdk/rust/src/settings/fault.rs",
    "sdk/rust/src/settings/json.rs" => "remora/sdk/rust/src/settings/json.rs",
    "sdk/rust/src/settings/read.rs" => "remora/sdk/rust/src/settings/read.rs",
    "sdk/rust/src/volumes.rs" => "remora/sdk/rust/src/volumes.rs",
}

files! {
    POLICY_WIT,
    "wit/policy/0.1.0/authorize.wit" => "remora/wit/policy/0.1.0/authorize.wit",
    "wit/policy/0.1.0/package.wit" => "remora/wit/policy/0.1.0/package.wit",
    "wit/policy/0.1.0/retention.wit" => "remora/wit/policy/0.1.0/retention.wit",
    "wit/policy/0.1.0/schedule.wit" => "remora/wit/policy/0.1.0/schedule.wit",
    "wit/policy/0.1.0/select.wit" => "remora/wit/policy/0.1.0/select.wit",
    "wit/policy/0.2.0/authorize.wit" => "remora/wit/policy/0.2.0/authorize.wit",
    "wit/policy/0.2.0/package.wit" => "remora/wit/policy/0.2.0/package.wit",
}

files! {
    MOVER_WIT,
    "wit/mover/0.1.0/errors.wit" => "remora/wit/mover/0.1.0/errors.wit",
    "wit/mover/0.1.0/host.wit" => "remora/wit/mover/0.1.0/host.wit",
    "wit/mover/0.1.0/objects.wit" => "remora/wit/mover/0.1.0/objects.wit",
    "wit/mover/0.1.0/package.wit" => "remora/wit/mover/0.1.0/package.wit",
    "wit/mover/0.1.0/volume.wit" => "remora/wit/mover/0.1.0/volume.wit",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    const ALL: [(Language, NewKind); 5] = [
        (Language::Rust, NewKind::Policy),
        (Language::JavaScript, NewKind::Policy),
        (Language::Python, NewKind::Policy),
        (Language::Go, NewKind::Policy),
        (Language::Rust, NewKind::Mover),
    ];

    fn below(root: &Path, folder: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if !entry.file_type().unwrap().is_dir() {
                found.insert(path);
            } else if entry.file_name() != "__pycache__" {
                below(root, &path, found);
            }
        }
    }

    #[test]
    fn no_file_of_a_template_or_of_the_sdk_is_left_out() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut wanted = BTreeSet::from(["sdk/javascript/remora.js".to_owned()]);
        for folder in ["sdk/templates", "sdk/rust", "sdk/go", "sdk/python", "wit"] {
            below(&root, folder, &mut wanted);
        }
        let mut brought = BTreeSet::new();
        for (language, kind) in ALL {
            brought.extend(template(language, kind).unwrap().iter().map(|file| file.from.to_owned()));
        }
        let missing: Vec<_> = wanted.difference(&brought).collect();
        assert!(missing.is_empty(), "templates.rs lacks {missing:?}");
    }

    #[test]
    fn files_of_a_template_have_places_of_their_own_and_its_name() {
        for (language, kind) in ALL {
            let files = template(language, kind).unwrap();
            let paths: BTreeSet<_> = files.iter().map(|file| file.path).collect();
            assert_eq!(paths.len(), files.len(), "{language:?} {kind:?}");
            for file in &files {
                let text = file.contents("acme");
                assert!(!text.contains("{{name}}"), "{}", file.path);
                assert!(!text.contains("policies\""), "{} names our workspace", file.path);
            }
            assert!(files.iter().any(|file| file.contents("acme").contains("acme.wasm")), "{language:?} {kind:?}");
        }
    }

    #[test]
    fn only_rust_has_a_template_of_a_mover() {
        for language in [Language::JavaScript, Language::Python, Language::Go] {
            assert_eq!(template(language, NewKind::Mover).err().unwrap().kind(), ErrorKind::Unsupported);
        }
    }
}
