//! A folder of plugins with a mover of `sdk/examples` in it, for a real server.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::appliance::{Appliance, TOKEN};
use crate::process::Must;
use crate::remora::program;
use crate::s3::{KEY, S3, SECRET};
use crate::webdav::{PASSWORD, USER, WebDav};

/// The folder, removed with this.
#[derive(Debug)]
pub struct Plugin {
    dir: TempDir,
    name: &'static str,
}

impl Plugin {
    /// The mover `s3` for a bucket; `lines` are more of its document.
    pub fn of_bucket(s3: &S3, bucket: &str, lines: &str) -> Self {
        let dir = tempfile::tempdir().must("make a folder for plugins");
        let (endpoint, server) = (s3.endpoint(), s3.address());
        fs::copy(mover("s3"), dir.path().join("s3.wasm")).must("copy the mover");
        fs::write(dir.path().join("secret-key"), SECRET).must("write the secret");
        let document = format!(
            "kind: Mover\nname: s3\nmodule: file:s3.wasm\n\
             settings: {{endpoint: '{endpoint}', bucket: {bucket}, accessKey: {KEY}}}\n\
             network: {{allow: ['{server}'], addresses: ['{}'], plainHttp: true}}\n\
             secrets: {{secret-key: secret-key}}\n{lines}",
            server.ip(),
        );
        fs::write(dir.path().join("s3.yaml"), document).must("write the mover's document");
        Self { dir, name: "s3" }
    }

    /// The mover `webdav` for a server without TLS.
    pub fn of_webdav(server: &WebDav) -> Self {
        let dir = tempfile::tempdir().must("make a folder for plugins");
        let endpoint = server.endpoint();
        let address = endpoint.split_once("://").map_or("", |(_, address)| address);
        fs::copy(mover("webdav"), dir.path().join("webdav.wasm")).must("copy the mover");
        fs::write(dir.path().join("password"), PASSWORD).must("write the secret");
        let document = format!(
            "kind: Mover\nname: webdav\nmodule: file:webdav.wasm\n\
             settings: {{url: '{endpoint}/backups', user: {USER}}}\n\
             network: {{allow: ['{address}'], addresses: [127.0.0.1], plainHttp: true}}\n\
             secrets: {{password: password}}\n"
        );
        fs::write(dir.path().join("webdav.yaml"), document).must("write the mover's document");
        Self { dir, name: "webdav" }
    }

    /// The mover `array` for an appliance, which may see the disks of the machines that are named.
    pub fn of_appliance(appliance: &Appliance, machines: &str) -> Self {
        let dir = tempfile::tempdir().must("make a folder for plugins");
        let server = appliance.address();
        fs::copy(mover("appliance"), dir.path().join("array.wasm")).must("copy the mover");
        fs::write(dir.path().join("token"), TOKEN).must("write the secret");
        let document = format!(
            "kind: Mover\nname: array\nmodule: file:array.wasm\nsettings: {{endpoint: 'http://{server}'}}\n\
             network: {{allow: ['{server}'], addresses: [127.0.0.1], plainHttp: true}}\n\
             secrets: {{token: token}}\nvolume: {{disksInTheClear: ['{machines}']}}\n"
        );
        fs::write(dir.path().join("array.yaml"), document).must("write the mover's document");
        Self { dir, name: "array" }
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

/// The component of a mover that the build made beside the programs.
fn mover(name: &str) -> PathBuf {
    program("remora-plugin-host").with_file_name("movers").join(format!("{name}.wasm"))
}
