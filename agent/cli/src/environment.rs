//! The environment, read once when the process begins.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;

use zeroize::Zeroizing;

/// The passphrase itself. Taken out of the environment, so that no process we start inherits it.
pub(crate) const PASSPHRASE: &str = "REMORA_PASSPHRASE";

/// libvirt's own variable, which virsh reads too.
pub(crate) const LIBVIRT: &str = "LIBVIRT_DEFAULT_URI";

/// The `REMORA_*` variables that are set and not empty, and libvirt's.
#[derive(Default)]
pub(crate) struct Environment {
    variables: HashMap<String, OsString>,
    passphrase: Option<Zeroizing<Vec<u8>>>,
}

impl Environment {
    /// Takes it from the process. To be called before any thread is started.
    pub(crate) fn take() -> Self {
        let ours = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let environment = Self::of(ours.filter(|(name, _)| name.starts_with("REMORA_") || name == LIBVIRT));
        // SAFETY: no other thread exists yet, so nobody reads the environment at the same time.
        unsafe { std::env::remove_var(PASSPHRASE) };
        environment
    }

    /// One of these variables.
    pub(crate) fn of(variables: impl IntoIterator<Item = (String, OsString)>) -> Self {
        use std::os::unix::ffi::OsStringExt;
        let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let mut variables: HashMap<_, _> = set.collect();
        let passphrase = variables.remove(PASSPHRASE).map(|value| Zeroizing::new(value.into_vec()));
        Self { variables, passphrase }
    }

    /// A variable.
    pub(crate) fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name)
    }

    /// The value of [`PASSPHRASE`].
    pub(crate) fn passphrase(&self) -> Option<&Zeroizing<Vec<u8>>> {
        self.passphrase.as_ref()
    }
}
