//! The secrets of an instance: it knows their numbers.

use std::collections::HashMap;

use ring::hmac;
use zeroize::Zeroizing;

use super::super::words::{Class, MoverError};
use super::Broker;

/// An instance with more of them than this is ended.
const MOST: usize = 1_000;

/// No secret grows longer than this.
const LONGEST: usize = 64 << 10;

/// Why a rule was broken for which there is no error.
pub(in super::super) type Broken = String;

/// Those that an instance has opened or derived.
#[derive(Default)]
pub(in super::super) struct Secrets {
    known: HashMap<u32, Zeroizing<Vec<u8>>>,
    next: u32,
}

impl Secrets {
    /// Opens one that the administrator gave.
    pub(in super::super) fn open(&mut self, broker: &Broker, name: &str) -> Result<Result<u32, MoverError>, Broken> {
        if let Some(secret) = broker.secret(name) {
            return self.keep(secret.clone()).map(Ok);
        }
        let why = format!("there is no secret {name:?} in the mover's document (secrets)");
        Ok(Err(MoverError::new(Class::NotFound, "broker-no-secret", why)))
    }

    fn keep(&mut self, secret: Zeroizing<Vec<u8>>) -> Result<u32, Broken> {
        if self.known.len() >= MOST {
            return Err(format!("it holds {MOST} secrets and wants more"));
        }
        if secret.len() > LONGEST {
            return Err("a secret of it is longer than 64 KiB".into());
        }
        self.next = self.next.wrapping_add(1);
        self.known.insert(self.next, secret);
        Ok(self.next)
    }

    pub(super) fn get(&self, number: u32) -> Result<&Zeroizing<Vec<u8>>, Broken> {
        self.known.get(&number).ok_or_else(|| "it has no such secret".into())
    }

    /// HMAC-SHA-256 under a secret.
    pub(in super::super) fn hmac(&self, number: u32, data: &[u8]) -> Result<Vec<u8>, Broken> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.get(number)?);
        Ok(hmac::sign(&key, data).as_ref().to_vec())
    }

    /// The same, as a secret.
    pub(in super::super) fn derive(&mut self, number: u32, data: &[u8]) -> Result<u32, Broken> {
        let derived = Zeroizing::new(self.hmac(number, data)?);
        self.keep(derived)
    }

    /// A secret after some text.
    pub(in super::super) fn prefixed(&mut self, number: u32, prefix: &str) -> Result<u32, Broken> {
        let secret = self.get(number)?;
        let mut longer = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
        longer.extend_from_slice(prefix.as_bytes());
        longer.extend_from_slice(secret);
        self.keep(longer)
    }

    pub(in super::super) fn forget(&mut self, number: u32) {
        self.known.remove(&number);
    }
}
