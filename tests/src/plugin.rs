//! A folder of plugins with the mover of `sdk/examples/s3` in it, for a bucket of a real server.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::appliance::{Appliance, TOKEN};
use crate::process::Must;
use crate::remora::program;
use crate::s3::{KEY, S3, SECRET};

/// The folder, removed with this.
#[derive(Debug)]
pub struct Plugin {
    dir: TempDir,
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
        Self { dir }
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
        Self { dir }
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
        format!("plugin:s3/{prefix}")
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
