//! Builds the built-in policies (`policies/`, a workspace of its own for `wasm32-unknown-unknown`) and the examples of the SDK,
//! makes components of them, and tells the crate where the policies lie. So `cargo build` alone builds the host with what it
//! embeds; the examples lie in `<profile>/movers`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The built-in policies, by the names of their crates; `builtin:NAME` in documents.
const POLICIES: [&str; 7] = ["adaptive", "cron", "four-eyes", "gfs", "labels", "owners", "paths"];

/// The movers among the SDK's examples, by the names of their crates, and what misbehaves for tests: movers and a policy.
const MOVERS: [&str; 7] = ["appliance", "hostile", "hostile-array", "hostile-policy", "plain", "s3", "webdav"];

fn main() -> Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for input in [
        "sdk/rust",
        // Those that are built here: in the others, tests build components where they lie.
        "sdk/examples/appliance",
        "sdk/examples/plain",
        "sdk/examples/s3",
        "sdk/examples/webdav",
        "agent/plugins/tests/hostile",
        "agent/plugins/tests/hostile-array",
        "agent/plugins/tests/hostile-policy",
        "wit",
        "agent/retention",
    ]
    .into_iter()
    .map(|input| root.join(input))
    .chain(sources(&root)?)
    {
        println!("cargo:rerun-if-changed={}", input.display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Beside all other build results, so that it outlives this script's own folder: OUT_DIR is <profile>/build/<crate>/out.
    let profile = out.ancestors().nth(3).unwrap_or(&out);
    let built = build(&root.join("policies/Cargo.toml"), &profile.join("policies"))?;
    let movers = profile.join("movers");
    fs::create_dir_all(&movers)?;
    for name in MOVERS {
        component(&built, name, &movers)?;
    }
    let mut rows = Vec::new();
    for name in POLICIES {
        let path = component(&built, name, &out)?;
        rows.push(format!("({name:?}, include_bytes!({:?}))", path.display().to_string()));
    }
    fs::write(out.join("builtins.rs"), format!("&[{}]", rows.join(", ")))?;
    Ok(())
}

/// Makes a component of what was built of a crate; where it lies.
fn component(built: &Path, name: &str, into: &Path) -> Result<PathBuf> {
    let module = fs::read(built.join(format!("{}.wasm", name.replace('-', "_"))))?;
    let component = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    let path = into.join(format!("{name}.wasm"));
    // Not written over: the file may be a link that another build has too.
    fs::remove_file(&path).ok();
    fs::write(&path, component)?;
    Ok(path)
}

/// All of `policies/` but what somebody built in there.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root.join("policies"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|path| !path.ends_with("target")).collect())
}

/// Compiles them; the folder of their core modules.
fn build(manifest: &Path, target_dir: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var("CARGO")?);
    // The settings of the build around this one are for another machine and another profile.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let ours =
            name.starts_with("CARGO_PROFILE_") || name.starts_with("CARGO_CFG_") || name.starts_with("CARGO_FEATURE_");
        if ours || OF_THE_OUTER_BUILD.contains(&name.as_ref()) {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--manifest-path"]).arg(manifest);
    let status = cargo.arg("--target-dir").arg(target_dir).status()?;
    if !status.success() {
        return Err(format!(
            "building the policies of {} failed ({status}). If their target is missing: rustup target add {TARGET}",
            manifest.display()
        )
        .into());
    }
    Ok(target_dir.join(TARGET).join("release"))
}

const TARGET: &str = "wasm32-unknown-unknown";

const OF_THE_OUTER_BUILD: [&str; 7] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_MAKEFLAGS",
];
