//! A real WebDAV server: rclone's on loopback, its files in a folder of its own, ended with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::Must;
use crate::s3::Transport;
use crate::server::Server;

/// The user whom the server knows.
pub const USER: &str = "test";
/// That user's password.
pub const PASSWORD: &str = "testpassword123";

/// A server, with the collection `backups`.
#[derive(Debug)]
pub struct WebDav {
    // Ends before its folder is removed.
    server: Server,
    dir: TempDir,
    transport: Transport,
}

impl WebDav {
    /// A server with nothing in it but the empty collection `backups`.
    pub fn start(transport: Transport) -> Self {
        let dir = tempfile::Builder::new().prefix("remora-webdav-").tempdir().must("make the WebDAV server's folder");
        fs::create_dir_all(dir.path().join("data/backups")).must("make the WebDAV server's folders");
        if transport == Transport::Https {
            make_certificate(dir.path());
        }
        let at = dir.path().to_owned();
        let arguments = move |command: &mut Command, address| of_rclone(command, &at, address, transport);
        let server = Server::start("the WebDAV server", Ipv4Addr::LOCALHOST, dir.path().join("log"), arguments);
        Self { server, dir, transport }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        match self.transport {
            Transport::Http => format!("http://{}", self.address()),
            Transport::Https => format!("https://localhost:{}", self.address().port()),
        }
    }

    /// The certificate of its CA.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The folder that holds what is in the collection `backups`, as files.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("data/backups")
    }
}

fn of_rclone(command: &mut Command, dir: &Path, address: SocketAddr, transport: Transport) {
    command.args(["rclone", "serve", "webdav", "--addr", &address.to_string()]);
    command.args(["--user", USER, "--pass", PASSWORD]);
    // Nobody's configuration.
    command.args(["--config", ""]);
    if transport == Transport::Https {
        command.arg("--cert").arg(dir.join("cert.pem")).arg("--key").arg(dir.join("key.pem"));
    }
    command.arg(dir.join("data"));
}
