//! Stretching a passphrase into a key by Argon2id, and what that may cost.

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use remora_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::keys::Key;
use crate::secret::Passphrase;

/// What opening a new slot should take on the host that makes it.
const WANTED: Duration = Duration::from_secs(1);

/// The memory of a new slot: twice what RFC 9106 §4 recommends where memory is short, half of what a run may take.
const MEMORY_KIB: u32 = 128 * 1024;

const LANES: u32 = 4;

/// RFC 9106's passes, whatever was measured: a host that was busy at that moment makes no weak slot.
const FEWEST_PASSES: u32 = 3;

/// The most that a slot may ask of a reader: a hostile store must not be able to exhaust it.
const CAP: Cost = Cost { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };

/// The most in a store that somebody chose who is not trusted: what remora itself asks for, with room to grow.
const CAP_OF_STRANGERS: Cost = Cost { memory_kib: 2 * MEMORY_KIB, passes: 16, lanes: LANES };

/// Argon2id's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
}

impl Cost {
    /// What takes about a second here. Blocks for about a fifth of one.
    pub(crate) fn measured() -> Result<Self> {
        let one_pass = Self { memory_kib: MEMORY_KIB, passes: 1, lanes: LANES };
        let began = Instant::now();
        one_pass.stretch(&Passphrase::new(*b"a measurement"), &[0; 16])?;
        Ok(Self { passes: passes_for(began.elapsed()), ..one_pass })
    }

    /// Whether a reader can pay it.
    pub(crate) fn check(self) -> Result<(), &'static str> {
        if !self.is_within(CAP) {
            return Err("its Argon2 parameters ask for more than 1 GiB, 16 passes or 16 lanes");
        }
        self.params().map(drop).map_err(|_| "its Argon2 parameters are too low")
    }

    /// Whether it is asked of a reader who does not trust whoever chose the store, too.
    pub(crate) fn check_of_stranger(self) -> Result<(), &'static str> {
        if !self.is_within(CAP_OF_STRANGERS) {
            return Err("its Argon2 parameters ask for more than 256 MiB, 16 passes or 4 lanes");
        }
        Ok(())
    }

    const fn is_within(self, cap: Self) -> bool {
        self.memory_kib <= cap.memory_kib && self.passes <= cap.passes && self.lanes <= cap.lanes
    }

    fn params(self) -> Result<Params, argon2::Error> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
    }

    /// The key that a passphrase makes with a salt. Blocks.
    pub(crate) fn stretch(self, passphrase: &Passphrase, salt: &[u8; 16]) -> Result<Key> {
        let failed = |e: argon2::Error| Error::new(ErrorKind::Failed, format!("deriving a key by Argon2id: {e}"));
        let mut bytes = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params().map_err(failed)?)
            .hash_password_into(passphrase.as_bytes(), salt, &mut bytes)
            .map_err(failed)?;
        let key = Key::from_bytes(bytes);
        bytes.zeroize();
        Ok(key)
    }
}

/// How many passes take about [`WANTED`] when one takes `one_pass`.
// A quotient of durations is not negative.
#[allow(clippy::cast_sign_loss)]
fn passes_for(one_pass: Duration) -> u32 {
    let passes = WANTED.as_secs_f64() / one_pass.as_secs_f64().max(1e-6);
    (passes.round().min(f64::from(CAP.passes)) as u32).max(FEWEST_PASSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_hosts_keep_the_least_and_fast_ones_the_cap() {
        for (one_pass, passes) in [(5000, FEWEST_PASSES), (250, 4), (100, 10), (1, CAP.passes), (0, CAP.passes)] {
            assert_eq!(passes_for(Duration::from_millis(one_pass)), passes, "{one_pass} ms");
        }
    }

    #[test]
    fn what_is_measured_can_be_paid() {
        let cost = Cost::measured().unwrap();
        cost.check().unwrap();
        assert!(cost.memory_kib == MEMORY_KIB && cost.passes >= FEWEST_PASSES);
        cost.check_of_stranger().unwrap();
    }

    #[test]
    fn hostile_costs_are_refused() {
        let cheap = Cost { memory_kib: 64, passes: 1, lanes: 1 };
        cheap.check().unwrap();
        let dear = [
            Cost { memory_kib: u32::MAX, ..cheap },
            Cost { passes: u32::MAX, ..cheap },
            Cost { lanes: 1000, ..cheap },
            Cost { memory_kib: CAP.memory_kib + 1, ..cheap },
        ];
        let senseless = [Cost { memory_kib: 0, ..cheap }, Cost { passes: 0, ..cheap }, Cost { lanes: 0, ..cheap }];
        for cost in dear.into_iter().chain(senseless) {
            assert!(cost.check().is_err(), "{cost:?}");
        }
    }
}
