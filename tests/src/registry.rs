//! A real OCI registry: Debian's `docker-registry` on loopback, over TLS with a CA of its own and with a password, its state in a
//! folder of its own, ended with the test. What is pushed to it goes over its HTTP API.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{Must, run, wait_until};
use crate::server::Server;

/// The user of every registry.
const USER: &str = "test";
const PASSWORD: &str = "testsecret123";

/// `htpasswd -bnBC 5 test testsecret123`.
const HTPASSWD: &str = "test:$2b$05$abcdefghijklmnopqrstuuzavowy8s5QEyN.wzphQXmvDq3B3PtJu\n";

/// The form that WebAssembly artifacts have.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The type of a component's layer.
pub const WASM: &str = "application/wasm";

/// What cosign calls what it makes.
const SIGNATURES: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry.
#[derive(Debug)]
pub struct Registry {
    // Ends before its folder is removed.
    server: Server,
    dir: TempDir,
}

impl Registry {
    /// One with nothing in it.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("remora-registry-").tempdir().must("make the registry's folder");
        make_certificate(dir.path());
        fs::write(dir.path().join("htpasswd"), HTPASSWD).must("write the registry's passwords");
        let at = dir.path().to_owned();
        let arguments = move |command: &mut Command, address| of_docker_registry(command, &at, address);
        let server = Server::start("the registry", Ipv4Addr::LOCALHOST, dir.path().join("log"), arguments);
        let registry = Self { server, dir };
        let auth = Base64::encode_string(format!("{USER}:{PASSWORD}").as_bytes());
        let pull_secret = json!({"auths": {registry.host(): {"auth": auth}}}).to_string();
        fs::write(registry.pull_secret(), pull_secret).must("write the pull secret");
        registry
    }

    /// Ends it; what it holds stays.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again.
    pub fn start_again(&mut self) {
        self.server.start_again();
    }

    /// Host and port, as modules' names have them.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.server.address().port())
    }

    /// The certificate of its CA.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A pull secret in the form of Docker's `config.json`.
    pub fn pull_secret(&self) -> PathBuf {
        self.dir.path().join("pull.json")
    }

    /// How many requests it was made since its first start.
    pub fn requests(&self) -> usize {
        self.server.log().lines().filter(|line| line.contains("] \"") && line.contains(" /v2/")).count()
    }

    /// Waits until its log says that it gave a blob, which for a large one it does only after whoever asked has all of it.
    #[track_caller]
    pub fn wait_until_given(&self, digest: &str) {
        let asked = format!("/blobs/{digest} ");
        wait_until(format_args!("{digest} is not given"), Duration::from_mins(10), || {
            let log = self.server.log();
            log.lines().any(|line| line.contains("] \"GET ") && line.contains(&asked) && line.contains("\" 200 "))
        });
    }

    /// Pushes a component in the form of the CNCF; gives its manifest's digest, `sha256:…`.
    #[track_caller]
    pub fn push(&self, repository: &str, component: &[u8]) -> String {
        let layer = self.layer(repository, WASM, component);
        self.push_layers(repository, &[layer])
    }

    /// Pushes a manifest of some layers; gives its digest.
    #[track_caller]
    pub fn push_layers(&self, repository: &str, layers: &[Value]) -> String {
        let config = self.layer(repository, CONFIG, b"{}");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.push_manifest(repository, None, &manifest)
    }

    /// Pushes a blob; gives what a manifest says of it.
    #[track_caller]
    pub fn layer(&self, repository: &str, kind: &str, blob: &[u8]) -> Value {
        let digest = digest(blob);
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), &["--include"], None);
        let location = begun.lines().find_map(|line| line.strip_prefix("Location: ")).must("find where to upload to");
        let path = location.trim().split_once(&self.host()).map(|(_, path)| path).must("read where to upload to");
        let stream = ["--header", "content-type: application/octet-stream"];
        self.request("PUT", &format!("{path}&digest={digest}"), &stream, Some(blob));
        json!({"mediaType": kind, "digest": digest, "size": blob.len()})
    }

    /// Pushes a manifest under its digest, or under a tag; gives the digest.
    #[track_caller]
    pub fn push_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Value) -> String {
        let text = manifest.to_string();
        let digest = digest(text.as_bytes());
        let kind = format!("content-type: {}", manifest["mediaType"].as_str().unwrap_or(MANIFEST));
        let path = format!("/v2/{repository}/manifests/{}", tag.unwrap_or(&digest));
        self.request("PUT", &path, &["--header", &kind], Some(text.as_bytes()));
        digest
    }

    /// Signs a manifest as `cosign sign --key` does, under the tag that it takes.
    #[track_caller]
    pub fn sign(&self, repository: &str, manifest: &str, key: &SigningKey) {
        let layer = self.signed(repository, manifest, key);
        self.push_signatures(repository, manifest, &[layer]);
    }

    /// The layer of a signature.
    #[track_caller]
    pub fn signed(&self, repository: &str, manifest: &str, key: &SigningKey) -> Value {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": format!("{}/{repository}", self.host())},
                "image": {"docker-manifest-digest": manifest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string();
        let mut layer = self.layer(repository, SIMPLE_SIGNING, payload.as_bytes());
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": key.sign(payload.as_bytes())});
        layer
    }

    /// The layer of a bundle of Sigstore, as `cosign sign --key` has it since version 3.
    #[track_caller]
    pub fn bundle(&self, repository: &str, manifest: &str, key: &SigningKey) -> Value {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": manifest.trim_start_matches("sha256:")}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        });
        let statement = statement.to_string();
        let signed = format!("DSSEv1 {} {IN_TOTO} {} {statement}", IN_TOTO.len(), statement.len());
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "tests"}},
            "dsseEnvelope": {
                "payload": Base64::encode_string(statement.as_bytes()),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": key.sign(signed.as_bytes())}],
            },
        });
        self.layer(repository, BUNDLE, bundle.to_string().as_bytes())
    }

    /// Pushes signatures under the tag of what they sign.
    #[track_caller]
    pub fn push_signatures(&self, repository: &str, manifest: &str, layers: &[Value]) {
        let config = self.layer(repository, SIGNATURES, b"{}");
        let signatures = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.push_manifest(repository, Some(&format!("{}.sig", tag_of(manifest))), &signatures);
    }

    /// Pushes signatures as something that refers to what they sign, for a registry that cannot tell what refers to what.
    #[track_caller]
    pub fn refer(&self, repository: &str, manifest: &str, layers: &[Value]) {
        let config = self.layer(repository, SIGNATURES, b"{}");
        let signatures = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let digest = self.push_manifest(repository, None, &signatures);
        let size = signatures.to_string().len();
        let referring = json!({"mediaType": MANIFEST, "digest": digest, "size": size, "artifactType": SIGNATURES});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [referring]});
        self.push_manifest(repository, Some(&tag_of(manifest)), &index);
    }

    /// Changes what it holds under a digest, behind its back.
    pub fn change_blob(&self, digest: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let hex = digest.trim_start_matches("sha256:");
        let file = self.dir.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
        let bytes = fs::read(&file).must("read a blob");
        fs::write(&file, change(bytes)).must("change a blob");
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, options: &[&str], body: Option<&[u8]>) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--http1.1", "--request", method]);
        curl.args(["--user", &format!("{USER}:{PASSWORD}")]).arg("--cacert").arg(self.ca_file()).args(options);
        let file = self.dir.path().join("body");
        if let Some(body) = body {
            fs::write(&file, body).must("write a request's body");
            curl.arg("--data-binary").arg(format!("@{}", file.display()));
        }
        run(curl.arg(format!("https://{}{path}", self.host()))).ok().text().to_owned()
    }
}

fn of_docker_registry(command: &mut Command, dir: &Path, address: SocketAddr) {
    let at = |name: &str| dir.join(name).display().to_string();
    let config = json!({
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": false}},
        "storage": {"filesystem": {"rootdirectory": at("data")}},
        "http": {"addr": address.to_string(), "tls": {"certificate": at("cert.pem"), "key": at("key.pem")}},
        "auth": {"htpasswd": {"realm": "test", "path": at("htpasswd")}},
    });
    fs::write(dir.join("config.yml"), config.to_string()).must("write the registry's configuration");
    command.args(["docker-registry", "serve"]).arg(dir.join("config.yml"));
}

/// As tags name a digest.
fn tag_of(digest: &str) -> String {
    digest.replace(':', "-")
}

/// The SHA-256 of bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    format!("sha256:{hex}")
}

/// A key that modules are signed with, made and used by openssl.
#[derive(Debug)]
pub struct SigningKey {
    dir: TempDir,
}

impl SigningKey {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().must("make a folder for a key");
        let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir.path())).ok();
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]);
        openssl(&["ec", "-in", "key.pem", "-pubout", "-out", "key.pub"]);
        Self { dir }
    }

    /// The file of its public half.
    pub fn public(&self) -> PathBuf {
        self.dir.path().join("key.pub")
    }

    /// A signature, as cosign writes it.
    pub fn sign(&self, message: &[u8]) -> String {
        let file = |name: &str| self.dir.path().join(name);
        fs::write(file("message"), message).must("write what is signed");
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign"]).arg(file("key.pem")).arg("-out").arg(file("signature"));
        run(openssl.arg(file("message"))).ok();
        Base64::encode_string(&fs::read(file("signature")).must("read a signature"))
    }

    /// Signs a file, as `cosign sign-blob` does, into one beside it.
    pub fn sign_file(&self, path: &Path) {
        let signature = self.sign(&fs::read(path).must("read what is signed"));
        fs::write(format!("{}.sig", path.display()), signature).must("write a signature");
    }
}

impl Default for SigningKey {
    fn default() -> Self {
        Self::new()
    }
}
