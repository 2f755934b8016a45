//! A real WebDAV server: rclone's on loopback, its files in a folder of its own, ended with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{Must, wait_until};
use crate::s3::{Transport, free_address};

/// The user whom the server knows.
pub const USER: &str = "test";
/// That user's password.
pub const PASSWORD: &str = "testpassword123";

/// A free port may be taken by another before the server has it.
const TRIES: usize = 5;

/// How long the server may take to start on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A server, with the collection `backups`.
#[derive(Debug)]
pub struct WebDav {
    dir: TempDir,
    address: SocketAddr,
    transport: Transport,
    server: Child,
}

impl WebDav {
    /// A server with nothing in it but the empty collection `backups`.
    pub fn start(transport: Transport) -> Self {
        let dir = tempfile::Builder::new().prefix("remora-webdav-").tempdir().must("make the WebDAV server's folder");
        fs::create_dir_all(dir.path().join("data/backups")).must("make the WebDAV server's folders");
        if transport == Transport::Https {
            make_certificate(dir.path());
        }
        for _ in 0..TRIES {
            let address = free_address(Ipv4Addr::LOCALHOST);
            let mut server = spawn(dir.path(), address, transport);
            let mut ended = false;
            wait_until(format_args!("the WebDAV server takes no connections at {address}"), START, || {
                ended = server.try_wait().must("look after the WebDAV server").is_some();
                ended || TcpStream::connect(address).is_ok()
            });
            if !ended && server.try_wait().must("look after the WebDAV server").is_none() {
                return Self { dir, address, transport, server };
            }
        }
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("the WebDAV server does not start (`make setup` installs rclone): {log}");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        match self.transport {
            Transport::Http => format!("http://{}", self.address),
            Transport::Https => format!("https://localhost:{}", self.address.port()),
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

impl Drop for WebDav {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn spawn(dir: &Path, address: SocketAddr, transport: Transport) -> Child {
    let log = fs::File::create(dir.join("log")).must("make the WebDAV server's log");
    let errors = log.try_clone().must("share the WebDAV server's log");
    // Ends with the thread that started it, also when that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "rclone", "serve", "webdav", "--addr", &address.to_string()]);
    command.args(["--user", USER, "--pass", PASSWORD]);
    // Nobody's configuration.
    command.args(["--config", ""]);
    if transport == Transport::Https {
        command.arg("--cert").arg(dir.join("cert.pem")).arg("--key").arg(dir.join("key.pem"));
    }
    command.arg(dir.join("data")).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().must("start the WebDAV server")
}
