//! A real S3 server: versitygw on loopback, its state in a folder of its own, ended with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cache::tool;
use crate::certificate::make_certificate;
use crate::process::{Must, Ran, run};
use crate::remora::Remora;
use crate::server::Server;

/// The key of the server's owner.
pub const KEY: &str = "test";
/// The secret of the server's owner.
pub const SECRET: &str = "testsecret123";

/// Whether a server speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP.
    Http,
    /// HTTPS, with a certificate of a CA of its own.
    Https,
}

/// A server.
#[derive(Debug)]
pub struct S3 {
    // Ends before its folder is removed.
    server: Server,
    dir: TempDir,
    transport: Transport,
}

impl S3 {
    /// A server with nothing in it, of plain HTTP.
    pub fn start() -> Self {
        Self::start_with(Transport::Http)
    }

    /// A server with nothing in it.
    pub fn start_with(transport: Transport) -> Self {
        Self::start_below(&std::env::temp_dir(), transport, Ipv4Addr::LOCALHOST)
    }

    /// A server of plain HTTP with nothing in it, at another address of this host than that of loopback.
    pub fn start_at(address: Ipv4Addr) -> Self {
        Self::start_below(&std::env::temp_dir(), Transport::Http, address)
    }

    /// A server of plain HTTP with nothing in it, its files below `folder`.
    pub fn start_in(folder: &Path) -> Self {
        Self::start_below(folder, Transport::Http, Ipv4Addr::LOCALHOST)
    }

    fn start_below(folder: &Path, transport: Transport, address: Ipv4Addr) -> Self {
        let dir = tempfile::Builder::new().prefix("remora-s3-").tempdir_in(folder).must("make the S3 server's folder");
        for folder in ["data", "versions", "iam"] {
            fs::create_dir(dir.path().join(folder)).must("make the S3 server's folders");
        }
        if transport == Transport::Https {
            make_certificate(dir.path());
        }
        fs::write(
            dir.path().join("credentials"),
            format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"),
        )
        .must("write the credentials");
        let at = dir.path().to_owned();
        let arguments = move |command: &mut Command, address| of_versitygw(command, &at, address, transport);
        let server = Server::start("the S3 server", address, dir.path().join("log"), arguments);
        Self { server, dir, transport }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.address())
    }

    fn endpoint_at(&self, address: SocketAddr) -> String {
        match self.transport {
            Transport::Http => format!("http://{address}"),
            Transport::Https => format!("https://localhost:{}", address.port()),
        }
    }

    /// The certificate of its CA.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The files of its own certificate and key.
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["cert.pem", "key.pem"].map(|name| self.dir.path().join(name))
    }

    /// A file with its owner's credentials, in the form of `~/.aws/credentials`.
    pub fn credentials(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    /// The URL of a repository in a bucket.
    pub fn url(&self, bucket: &str) -> String {
        self.url_at(bucket, self.address())
    }

    /// The same, reached at another address: that of a [`crate::Meddler`].
    pub fn url_at(&self, bucket: &str, address: SocketAddr) -> String {
        format!("s3://{bucket}/a/repository?endpoint={}&region=us-east-1", self.endpoint_at(address))
    }

    /// A new bucket.
    #[track_caller]
    pub fn bucket(&self, name: &str) -> String {
        self.request("PUT", &format!("/{name}"), &[], "");
        name.to_owned()
    }

    /// A new bucket with Object Lock.
    #[track_caller]
    pub fn locking_bucket(&self, name: &str) -> String {
        self.request("PUT", &format!("/{name}"), &["x-amz-bucket-object-lock-enabled: true"], "");
        name.to_owned()
    }

    /// A user who may do with a bucket what `actions` say and nothing else.
    #[track_caller]
    pub fn user(&self, name: &str, bucket: &str, actions: &[&str]) {
        let mut admin = Command::new(binary());
        admin.args(["admin", "--access", KEY, "--secret", SECRET, "--endpoint-url", &self.endpoint(), "create-user"]);
        run(admin.args(["--access", name, "--secret", SECRET, "--role", "user"])).ok();
        let statement = serde_json::json!({
            "Effect": "Allow",
            "Principal": {"AWS": [name]},
            "Action": actions,
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        });
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
        self.request("PUT", &format!("/{bucket}?policy="), &[], &policy);
    }

    /// A signed request of the server's owner; panics unless it succeeds.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Ran {
        self.try_request(KEY, method, path, headers, body).ok()
    }

    /// A signed request of a user, which may fail.
    pub fn try_request(&self, key: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Ran {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--request", method]);
        curl.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{key}:{SECRET}")]);
        // curl 7.88 does not send it, and signs a parameter without a value wrongly unless it ends in "=".
        let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        let hex = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        curl.args(["--header", &format!("x-amz-content-sha256: {hex}")]);
        for header in headers {
            curl.args(["--header", header]);
        }
        if !body.is_empty() {
            curl.args(["--data-binary", body]);
        }
        if self.transport == Transport::Https {
            curl.arg("--cacert").arg(self.ca_file());
        }
        run(curl.arg(format!("{}{path}", self.endpoint())))
    }

    /// The keys and the ids of all versions of objects in a bucket; marks of what was deleted are none.
    #[track_caller]
    pub fn versions(&self, bucket: &str) -> Vec<(String, String)> {
        let listing = self.request("GET", &format!("/{bucket}?versions="), &[], "").stdout;
        let listing = String::from_utf8(listing).must("read a listing");
        let version = |part: &str| Some((element(part, "Key")?, element(part, "VersionId")?));
        assert_eq!(element(&listing, "IsTruncated").as_deref(), Some("false"));
        listing.split("<Version>").skip(1).filter_map(version).collect()
    }

    /// The folder that holds the objects of a bucket as files.
    pub fn files(&self, bucket: &str) -> PathBuf {
        self.dir.path().join("data").join(bucket)
    }

    /// How many requests of an operation, such as `s3_PutObject`, it has answered.
    pub fn requests(&self, operation: &str) -> usize {
        let log = fs::read_to_string(self.dir.path().join("access.log")).must("read the S3 server's access log");
        log.lines().filter(|line| line.split_whitespace().any(|word| word == operation)).count()
    }

    /// How many requests it has answered.
    pub fn all_requests(&self) -> usize {
        fs::read_to_string(self.dir.path().join("access.log")).must("read the S3 server's access log").lines().count()
    }

    /// `remora` with the credentials of the server's owner.
    #[must_use]
    pub fn owner(&self, remora: Remora) -> Remora {
        self.signed(remora, KEY)
    }

    /// `remora` with the credentials of a user.
    #[must_use]
    pub fn signed(&self, remora: Remora, key: &str) -> Remora {
        let remora = remora.with("AWS_ACCESS_KEY_ID", key).with("AWS_SECRET_ACCESS_KEY", SECRET);
        match self.transport {
            Transport::Http => remora,
            Transport::Https => remora.with("REMORA_CA_FILE", self.ca_file()),
        }
    }
}

/// The text of the first element of that name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.to_owned())
}

fn binary() -> PathBuf {
    tool("versitygw", "setup-s3")
}

fn of_versitygw(command: &mut Command, dir: &Path, address: SocketAddr, transport: Transport) {
    command.arg(binary());
    command.args(["--port", &address.to_string(), "--region", "us-east-1", "--quiet", "--keep-alive"]);
    command.arg("--iam-dir").arg(dir.join("iam")).arg("--access-log").arg(dir.join("access.log"));
    // A bucket is in the path, or before this name in the host's.
    command.args(["--virtual-domain", "localhost"]);
    if transport == Transport::Https {
        command.arg("--cert").arg(dir.join("cert.pem")).arg("--key").arg(dir.join("key.pem"));
    }
    command.arg("posix").arg("--versioning-dir").arg(dir.join("versions")).arg(dir.join("data"));
    command.env("ROOT_ACCESS_KEY", KEY).env("ROOT_SECRET_KEY", SECRET);
}
