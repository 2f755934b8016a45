//! The names of what the controller makes. Deterministic ones: who makes one twice finds it there.

use std::fmt::Write;

use remora_core::RepositoryId;

/// The tracker of a machine in a repository: the newest checkpoint of another repository is none of ours.
pub fn tracker_name(machine: &str, repository: RepositoryId) -> String {
    name("tracker", &[machine.as_bytes(), repository.as_bytes()])
}

/// The scratch volume of a machine. One a machine: so no two runs, nor two controllers, back it up at once.
pub fn scratch_name(machine: &str) -> String {
    name("scratch", &[machine.as_bytes()])
}

/// The Secret of a machine's exporter, likewise.
pub fn token_name(machine: &str) -> String {
    name("token", &[machine.as_bytes()])
}

fn name(what: &str, of: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("remora kubernetes names");
    hasher.update(what.as_bytes());
    format!("remora-{what}-{}", hashed(hasher, of, 10))
}

/// The first bytes of the hash of these parts, each with its length, in hexadecimal digits.
pub(crate) fn hashed(mut hasher: blake3::Hasher, of: &[&[u8]], bytes: usize) -> String {
    for part in of {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut digits = String::new();
    for byte in &hasher.finalize().as_bytes()[..bytes] {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_what_earlier_versions_made() {
        assert_eq!(scratch_name("web"), "remora-scratch-bfb19bdf4854f4410e87");
    }
}
