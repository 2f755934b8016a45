//! A folder of plugins with a mover of `sdk/examples` in it, for a real server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::appliance::{Appliance, TOKEN};
use crate::plain::{self, PlainStore};
use crate::process::Must;
use crate::remora::program;
use crate::s3::{KEY, SECRET};
use crate::webdav::{PASSWORD, USER, WebDav};

/// The folder, removed with this.
#[derive(Debug)]
pub struct Plugin {
    dir: TempDir,
    name: &'static str,
}

impl Plugin {
    /// The mover `s3` for a bucket of a server without TLS that is reached at this address: its own, or that of a
    /// [`crate::Meddler`].
    pub fn of_bucket(server: SocketAddr, bucket: &str) -> Self {
        let settings = format!("{{endpoint: 'http://{server}', bucket: {bucket}, accessKey: {KEY}}}");
        Self::new("s3", "s3", &settings, server, ("secret-key", SECRET), "")
    }

    /// The mover `webdav` for a server without TLS.
    pub fn of_webdav(server: &WebDav) -> Self {
        let settings = format!("{{url: '{}/backups', user: {USER}}}", server.endpoint());
        Self::new("webdav", "webdav", &settings, server.address(), ("password", PASSWORD), "")
    }

    /// The mover `plain` for its server.
    pub fn of_plain(store: &PlainStore) -> Self {
        let server = store.address();
        let settings = format!("{{endpoint: 'http://{server}'}}");
        Self::new("plain", "plain", &settings, server, ("token", plain::TOKEN), "")
    }

    /// One that takes the place of the mover `plain` and misbehaves: `agent/plugins/tests/hostile`, as its `misbehave` says.
    /// `lines` are more of its document.
    pub fn of_misbehaving(store: &PlainStore, misbehave: &str, lines: &str) -> Self {
        let server = store.address();
        let settings = format!("{{endpoint: 'http://{server}', misbehave: '{misbehave}'}}");
        Self::new("plain", "hostile", &settings, server, ("token", plain::TOKEN), lines)
    }

    /// The mover `array` for an appliance, which may see the disks of the machines that are named.
    pub fn of_appliance(appliance: &Appliance, machines: &str) -> Self {
        let server = appliance.address();
        let lines = format!("volume: {{disksInTheClear: ['{machines}']}}\n");
        let settings = format!("{{endpoint: 'http://{server}'}}");
        Self::new("array", "appliance", &settings, server, ("token", TOKEN), &lines)
    }

    /// The mover `name`, which is this example, for a server without TLS.
    fn new(
        name: &'static str,
        example: &str,
        settings: &str,
        server: SocketAddr,
        (secret, text): (&str, &str),
        lines: &str,
    ) -> Self {
        let dir = tempfile::tempdir().must("make a folder for plugins");
        fs::copy(mover(example), dir.path().join(format!("{name}.wasm"))).must("copy the mover");
        fs::write(dir.path().join(secret), text).must("write the secret");
        let document = format!(
            "kind: Mover\nname: {name}\nmodule: file:{name}.wasm\nsettings: {settings}\n\
             network: {{allow: ['{server}'], addresses: ['{}'], plainHttp: true}}\n\
             secrets: {{{secret}: {secret}}}\n{lines}",
            server.ip(),
        );
        fs::write(dir.path().join(format!("{name}.yaml")), document).must("write the mover's document");
        Self { dir, name }
    }

    /// The component of a mover that the build made, such as `plain`.
    pub fn component(name: &str) -> PathBuf {
        mover(name)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The URL of a repository.
    pub fn url(&self, prefix: &str) -> String {
        format!("plugin:{}/{prefix}", self.name)
    }

    /// The program that runs movers.
    pub fn host() -> PathBuf {
        program("remora-plugin-host")
    }
}

/// The policy of the tests that misbehaves as its settings say: `agent/plugins/tests/hostile-policy`.
#[track_caller]
pub fn hostile_policy() -> Vec<u8> {
    fs::read(mover("hostile-policy")).must("read the policy that misbehaves")
}

/// The component of a mover that the build made beside the programs.
fn mover(name: &str) -> PathBuf {
    program("remora-plugin-host").with_file_name("movers").join(format!("{name}.wasm"))
}
