//! Writes the seeds of the vault's fuzz targets to `fuzz/seeds`:
//! `cargo run --release -p remora-vault --example vault_seeds`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    for (target, name, bytes) in remora_vault::fuzzing::seeds() {
        std::fs::create_dir_all(seeds.join(target))?;
        std::fs::write(seeds.join(target).join(name), bytes)?;
    }
    Ok(())
}
