//! Modules of registries: a real one over TLS with a password, and servers that misbehave.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use remora_core::{Error, ErrorKind};
use remora_plugins::movers::Movers;
use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{Host, HostOptions, Registries, builtins};
use remora_tests::registry::{WASM, digest};
use remora_tests::{Registry, SigningKey, Transport};
use serde_json::json;
use tempfile::TempDir;

use super::components::options;
use super::folder::now;
use super::movers::network::{Server, answer};
use super::movers::objects::{create, get};
use super::movers::s3::{Bucket, lines};
use super::movers::{example, host_program};

/// A component that is a policy.
pub(crate) fn labels() -> &'static [u8] {
    builtins().find(|(name, _)| *name == "labels").unwrap().1
}

/// A folder of policies, one of plugins, and what was fetched.
pub(crate) struct Scene {
    dir: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["policies", "plugins"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The document of registries, with one registry and these lines of it, or of the document.
    fn registries(&self, host: &str, lines: &str) {
        let text = format!("kind: Registries\nregistries:\n- host: '{host}'\n  addresses: [127.0.0.1, '::1']\n{lines}");
        fs::write(self.at("plugins/registries.yaml"), text).unwrap();
    }

    /// The same for a real one, with its CA and its password.
    pub(crate) fn trust(&self, registry: &Registry, lines: &str) {
        self.registries(&registry.host(), &format!("{}{lines}", reached(registry)));
    }

    /// A policy that selects by a module.
    pub(crate) fn policy(&self, module: &str) {
        let text = format!(
            "kind: BackupPolicy\nname: nightly\nselect: {{module: '{module}', settings: {{names: ['*']}}}}\n\
             schedule: {{module: builtin:cron, settings: {{cron: 15 2 * * *}}}}\n"
        );
        fs::write(self.at("policies/nightly.yaml"), text).unwrap();
    }

    /// A host that knows nothing yet, as after a restart.
    pub(crate) fn host(&self) -> Host {
        let registries = Registries::new(self.at("plugins"), Some(self.dir.path()));
        Host::new(&HostOptions { registries, ..options() }).unwrap()
    }

    fn generation(&self, host: &Host) -> Generation {
        Generation::default().next(host, &Snapshot::read(&self.at("policies")).unwrap(), now())
    }

    /// Loads the policies anew; why one is broken.
    fn load(&self) -> Result<(), Error> {
        let generation = self.generation(&self.host());
        let broken = generation
            .broken()
            .next()
            .map(|(_, error)| Error::new(error.kind(), error.chain()).advise(error.advice().unwrap_or_default()));
        broken.map_or(Ok(()), Err)
    }

    #[track_caller]
    pub(crate) fn is_good(&self) {
        if let Err(error) = self.load() {
            panic!("{error}");
        }
    }

    #[track_caller]
    fn is_refused(&self, kind: ErrorKind, said: &str) -> Error {
        let error = self.load().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert!(error.to_string().starts_with("nightly.yaml, line 3: select: oci://"), "{error}");
        assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{error}");
        error
    }
}

fn reached(registry: &Registry) -> String {
    format!("  caFile: {}\n  pullSecret: {}\n", registry.ca_file().display(), registry.pull_secret().display())
}

pub(crate) fn module(registry: &Registry, digest: &str) -> String {
    format!("oci://{}/acme/labels:1.0@{digest}", registry.host())
}

#[test]
fn a_policy_of_a_registry_is_fetched_once_and_then_needs_none() {
    let mut registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    let generation = scene.generation(&scene.host());
    let select = generation.backups().next().map(|(policy, _)| policy.select.digest().to_string());
    assert_eq!(select.map(|select| format!("sha256:{select}")), Some(digest(labels())));
    registry.wait_until_given(&digest(labels()));
    let asked = registry.requests();
    scene.is_good();
    assert_eq!(registry.requests(), asked, "it was asked again");
    registry.stop();
    scene.is_good();

    // What is kept is hashed, and fetched anew if it is damaged.
    let kept = scene.at("fetched").join(format!("{}.wasm", digest(labels()).trim_start_matches("sha256:")));
    fs::write(&kept, "damaged").unwrap();
    scene.is_refused(ErrorKind::Unavailable, "cannot be reached");
    registry.start_again();
    scene.is_good();
    assert_eq!(fs::read(&kept).unwrap(), labels());
}

#[test]
fn a_registry_that_is_there_again_mends_what_was_broken_without_it() {
    let mut registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    registry.stop();
    let (host, snapshot) = (scene.host(), Snapshot::read(&scene.at("policies")).unwrap());
    let broken = Generation::default().next(&host, &snapshot, now());
    assert!(broken.broken().count() == 1 && broken.is_due(&host));
    // Tried again it fails alike, which is no news.
    assert!(broken.next(&host, &snapshot, now()).is_same(&broken));
    registry.start_again();
    let mended = Generation::default().next(&scene.host(), &snapshot, now());
    assert!(mended.broken().count() == 0 && !mended.is_due(&host));
}

type Change = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn other_bytes_than_the_digests_say_are_refused() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    registry.push("acme/labels", b"something else");
    scene.policy(&module(&registry, &digest(b"no such manifest")));
    scene.is_refused(ErrorKind::NotFound, "has no sha256:");
    let good = registry.push("acme/labels", labels());

    // The registry's own store was changed: of the same length, longer, shorter.
    scene.policy(&module(&registry, &good));
    let flipped = |mut blob: Vec<u8>| {
        blob[100] ^= 1;
        blob
    };
    let changes: [(Change, &str); 3] = [
        (flipped, "for sha256:"),
        (|blob| [blob, b"more".to_vec()].concat(), "gives more than"),
        (|blob| blob[..blob.len() - 5].to_vec(), "bytes of sha256:"),
    ];
    for (change, said) in changes {
        registry.change_blob(&digest(labels()), change);
        scene.is_refused(ErrorKind::Damaged, said);
        registry.change_blob(&digest(labels()), |_| labels().to_vec());
    }
    registry.change_blob(&good, |manifest| [manifest, b" ".to_vec()].concat());
    scene.is_refused(ErrorKind::Damaged, "for sha256:");
    assert!(!scene.at("fetched").exists(), "something of it was kept");
}

#[test]
fn what_is_too_large_or_no_module_is_refused() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    let layer = |kind: &str| registry.layer("acme/labels", kind, labels());
    let mut huge = layer(WASM);
    huge["size"] = json!((64 << 20) + 1);
    let asked = registry.requests();
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[huge])));
    scene.is_refused(ErrorKind::Refused, "67108865 bytes");
    // Nothing of it was asked for: a manifest once without and once with the password, after its own two pushes.
    assert!(registry.requests() - asked <= 5, "{} requests", registry.requests() - asked);
    // More than its manifest says.
    let mut short = layer(WASM);
    short["size"] = json!(10);
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[short])));
    scene.is_refused(ErrorKind::Damaged, "more than 10 bytes");
    let two = [layer("a/b"), layer("c/d")];
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &two)));
    scene.is_refused(ErrorKind::Invalid, "no artifact with one component");
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[layer("application/octet-stream")])));
    scene.is_good();
}

#[test]
fn without_its_authority_or_its_password_a_registry_is_not_used() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    let error = scene.is_refused(ErrorKind::Refused, "no address of the internet");
    assert!(error.advice().unwrap().contains("addresses"));
    scene.registries(&registry.host(), "");
    let error = scene.is_refused(ErrorKind::Refused, "certificate");
    assert!(error.advice().unwrap().contains("caFile"));
    scene.registries(&registry.host(), &format!("  caFile: {}\n", registry.ca_file().display()));
    let error = scene.is_refused(ErrorKind::Refused, "401");
    assert!(error.advice().unwrap().contains("pullSecret"));
    let wrong = json!({"auths": {registry.host(): {"username": "test", "password": "hunter2"}}}).to_string();
    fs::write(scene.at("plugins/wrong.json"), wrong).unwrap();
    let lines = format!("  caFile: {}\n  pullSecret: wrong.json\n", registry.ca_file().display());
    scene.registries(&registry.host(), &lines);
    let error = scene.is_refused(ErrorKind::Refused, "401");
    assert!(error.advice().unwrap().contains("user") && !error.to_string().contains("hunter2"));
}

#[test]
fn mirrors_are_asked_first_and_the_registry_if_they_cannot() {
    let (mut mirror, mut registry) = (Registry::start(), Registry::start());
    let good = registry.push("acme/labels", labels());
    // One password file and one bundle of authorities for both.
    let both = |a: &Path, b: &Path| [fs::read(a).unwrap(), fs::read(b).unwrap()].concat();
    let scene = Scene::new();
    fs::write(scene.at("plugins/ca.pem"), both(&mirror.ca_file(), &registry.ca_file())).unwrap();
    let mut logins: serde_json::Value = serde_json::from_slice(&fs::read(mirror.pull_secret()).unwrap()).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&fs::read(registry.pull_secret()).unwrap()).unwrap();
    logins["auths"][registry.host()] = other["auths"][registry.host()].clone();
    fs::write(scene.at("plugins/pull.json"), logins.to_string()).unwrap();
    let lines = format!("  mirrors: ['{}/proxied']\n  caFile: ca.pem\n  pullSecret: pull.json\n", mirror.host());
    scene.registries(&registry.host(), &lines);
    scene.policy(&module(&registry, &good));

    // It has nothing, then something else under the digest, then the module.
    scene.is_good();
    let asked = registry.requests();
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    assert_eq!(mirror.push("proxied/acme/labels", labels()), good);
    mirror.change_blob(&digest(labels()), |_| vec![0; labels().len()]);
    scene.is_good();
    assert!(registry.requests() > asked, "the registry was not asked");
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    mirror.change_blob(&digest(labels()), |_| labels().to_vec());
    let asked = registry.requests();
    registry.stop();
    scene.is_good();
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    mirror.stop();
    scene.is_refused(ErrorKind::Unavailable, &mirror.host());
    registry.start_again();
    scene.is_good();
    assert!(registry.requests() > asked);
}

#[test]
fn where_keys_are_named_nothing_is_taken_that_none_of_them_signed() {
    let registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    let keys = |key: &SigningKey| format!("  keys: ['{}']\n", key.public().display());
    scene.trust(&registry, &keys(&ours));
    let good = registry.push("acme/labels", labels());
    let other = registry.push("acme/labels", b"another module");
    scene.policy(&module(&registry, &good));
    let error = scene.is_refused(ErrorKind::Refused, "there is none");
    assert!(error.advice().unwrap().contains("cosign sign"));

    registry.sign("acme/labels", &good, &theirs);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    // A good signature of another module under this one's tag.
    let replayed = registry.signed("acme/labels", &other, &ours);
    registry.push_signatures("acme/labels", &good, &[replayed]);
    scene.is_refused(ErrorKind::Refused, "signs another manifest");
    // A signature whose text was changed afterwards.
    let mut changed = registry.signed("acme/labels", &good, &ours);
    changed["annotations"]["dev.cosignproject.cosign/signature"] = json!(ours.sign(b"another text"));
    registry.push_signatures("acme/labels", &good, &[changed]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    assert!(!scene.at("fetched").exists(), "something of it was kept");

    // One good one among others.
    let signed = [&theirs, &ours].map(|key| registry.signed("acme/labels", &good, key));
    registry.push_signatures("acme/labels", &good, &signed);
    scene.is_good();
}

/// As an administrator meets it: a document that was good is changed to name it, and another one changes in the same step.
#[test]
fn what_cannot_be_had_leaves_what_is_in_force_and_hinders_no_other_document() {
    let registry = Registry::start();
    let key = SigningKey::new();
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    let variant = |name: u8| [labels(), &[0, 2, 1, name]].concat();
    let signed = |component: &[u8]| {
        let pushed = registry.push("acme/labels", component);
        registry.sign("acme/labels", &pushed, &key);
        pushed
    };
    let (good, damaged) = (signed(labels()), signed(&variant(b'x')));
    registry.change_blob(&digest(&variant(b'x')), |mut blob| {
        blob[100] ^= 1;
        blob
    });
    let unsigned = registry.push("acme/labels", &variant(b'y'));
    let missing = digest(b"no such manifest");
    registry.sign("acme/labels", &missing, &key);
    let weekly = |hour: usize| {
        let text = format!(
            "kind: BackupPolicy\nname: weekly\nselect: {{module: builtin:labels, settings: {{all: true}}}}\n\
             schedule: {{module: builtin:cron, settings: {{cron: 0 {hour} * * 0}}}}\n"
        );
        fs::write(scene.at("policies/weekly.yaml"), text).unwrap();
    };
    let host = scene.host();
    let next = |before: &Generation| before.next(&host, &Snapshot::read(&scene.at("policies")).unwrap(), now());
    scene.policy(&module(&registry, &good));
    weekly(0);
    let mut current = next(&Generation::default());
    assert_eq!(current.broken().count(), 0, "{:?}", current.broken().next());
    let table = [
        (missing, ErrorKind::NotFound, "has no sha256:"),
        (damaged, ErrorKind::Damaged, "for sha256:"),
        (unsigned, ErrorKind::Refused, "there is none"),
    ];
    for (hour, (wanted, kind, said)) in (1..).zip(table) {
        scene.policy(&module(&registry, &wanted));
        weekly(hour);
        current = next(&current);
        let broken: Vec<_> = current.broken().collect();
        let [(file, error)] = broken.as_slice() else { panic!("{said}: {broken:?}") };
        let told = error.chain();
        assert_eq!((file.file.as_str(), error.kind()), ("nightly.yaml", kind), "{told}");
        assert!(told.starts_with("nightly.yaml, line 3: select: oci://") && told.contains(said), "{told}");
        assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{told}");
        let in_force: Vec<_> = current.backups().collect();
        let [(nightly, stale), (weekly, fresh)] = in_force.as_slice() else { panic!("{said}: {in_force:?}") };
        assert_eq!(format!("sha256:{}", nightly.select.digest()), digest(labels()), "{said}");
        assert_eq!((*stale, *fresh), (Some(now()), None), "{said}");
        assert_eq!(weekly.schedule.settings(), format!(r#"{{"cron":"0 {hour} * * 0"}}"#), "{said}");
    }
}

#[test]
fn a_signature_is_found_by_what_refers_to_the_module_too() {
    let registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", ours.public().display()));
    let good = registry.push("acme/labels", labels());
    scene.policy(&module(&registry, &good));
    registry.refer("acme/labels", &good, &[registry.signed("acme/labels", &good, &theirs)]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    registry.refer("acme/labels", &good, &[registry.signed("acme/labels", &good, &ours)]);
    scene.is_good();

    // A bundle, as cosign 3 pushes it.
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &good, &theirs)]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    let other = registry.push("acme/labels", b"another module");
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &other, &ours)]);
    scene.is_refused(ErrorKind::Refused, "signs another manifest");
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &good, &ours)]);
    scene.is_good();
}

#[test]
fn a_signature_is_checked_again_without_the_registry_and_by_the_keys_of_now() {
    let mut registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    let trust = |key: &SigningKey| scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    trust(&ours);
    let good = registry.push("acme/labels", labels());
    scene.policy(&module(&registry, &good));
    registry.sign("acme/labels", &good, &ours);
    let (host, snapshot) = (scene.host(), Snapshot::read(&scene.at("policies")).unwrap());
    let generation = Generation::default().next(&host, &snapshot, now());
    assert!(generation.broken().count() == 0 && !generation.is_due(&host));
    trust(&theirs);
    // What is in force is looked at again, though no policy changed.
    assert!(generation.is_due(&host));
    let distrusted = generation.next(&host, &snapshot, now());
    let (file, error) = distrusted.broken().next().unwrap();
    assert!(error.kind() == ErrorKind::Refused && file.active.is_some(), "{}", error.chain());
    trust(&ours);
    registry.stop();
    scene.is_good();
    // A signature that somebody puts where they are kept holds no better than any other.
    let signatures = scene.at("fetched").join(format!("{}.signatures", good.trim_start_matches("sha256:")));
    let text = fs::read_to_string(&signatures).unwrap();
    fs::write(&signatures, text.replace("cosign container", "cosign  container")).unwrap();
    scene.is_refused(ErrorKind::Unavailable, "cannot be reached");
}

#[test]
fn a_policy_that_a_bad_document_of_registries_broke_is_looked_at_again_when_that_is_mended() {
    let scene = Scene::new();
    let document = |text: &str| fs::write(scene.at("plugins/registries.yaml"), text).unwrap();
    document("kind: Registrys\n");
    fs::write(scene.at("policies/mine.wasm"), labels()).unwrap();
    scene.policy("file:mine.wasm");
    let host = scene.host();
    let generation = scene.generation(&host);
    assert!(generation.broken().count() == 1 && !generation.is_due(&host));
    document("kind: Registries\n");
    assert!(generation.is_due(&host));
    let mended = generation.next(&host, &Snapshot::read(&scene.at("policies")).unwrap(), now());
    assert!(mended.broken().count() == 0 && !mended.is_due(&host));
    // What may be a document and cannot be read demands nothing less than one that can.
    fs::remove_file(scene.at("plugins/registries.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", scene.at("plugins/registries.yaml")).unwrap();
    assert_eq!(scene.generation(&scene.host()).broken().count(), 1);
}

#[test]
fn a_module_of_a_file_is_signed_beside_it() {
    let key = SigningKey::new();
    let scene = Scene::new();
    let text = format!("kind: Registries\nkeys: ['{}']\n", key.public().display());
    fs::write(scene.at("plugins/registries.yaml"), text).unwrap();
    scene.policy("file:mine.wasm");
    let component = scene.at("policies/mine.wasm");
    fs::write(&component, labels()).unwrap();
    let kept = Kept::new(scene.at("kept"));
    let next = |host: &Host| {
        Generation::default().next_kept(host, &Snapshot::read(&scene.at("policies")).unwrap(), &kept, now())
    };
    let refused = |said: &str| {
        let error = scene.load().unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains(said), "{error}");
    };
    refused("there is no signature");
    SigningKey::new().sign_file(&component);
    refused("of none of the keys");
    let before = Snapshot::read(&scene.at("policies")).unwrap();
    key.sign_file(&component);
    assert_ne!(Snapshot::read(&scene.at("policies")).unwrap().digest, before.digest, "it is not noticed");
    assert_eq!(next(&scene.host()).broken().count(), 0);
    // The last good version is kept with its signature.
    scene.policy("file:");
    let revived = next(&scene.host());
    assert!(revived.files[0].active.is_some() && revived.broken().count() == 1);
    // A signature of other bytes.
    scene.policy("file:mine.wasm");
    let other = builtins().find(|(name, _)| *name == "gfs").unwrap().1;
    fs::write(&component, other).unwrap();
    refused("of none of the keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_of_a_registry_works_and_is_kept() {
    let mut registry = Registry::start();
    let key = SigningKey::new();
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    let component = fs::read(example("s3")).unwrap();
    let pushed = registry.push("acme/s3", &component);
    registry.sign("acme/s3", &pushed, &key);
    let bucket = Bucket::new(Transport::Http);
    let secret = bucket.folder.path().join("secret");
    let document = |digest: &str| {
        let module = format!("oci://{}/acme/s3@{pushed}", registry.host());
        let lines = lines(&bucket.s3, &secret.display().to_string());
        format!("kind: Mover\nname: s3\nmodule: {module}\ndigest: {digest}\n{lines}")
    };
    let write = |text: String| fs::write(scene.at("plugins/s3.yaml"), text).unwrap();
    let open = || {
        let mut movers = Movers::new(scene.at("plugins"), Some(scene.dir.path()));
        movers.program = Some(host_program());
        movers.open("s3", "a/prefix")
    };
    write(document(&digest(labels())));
    assert!(open().unwrap_err().chain().contains("digest"));
    write(document(&digest(&component)));
    create(&open().unwrap(), "one", "bytes").await.unwrap();
    registry.stop();
    assert_eq!(get(&open().unwrap(), "one").await.unwrap(), "bytes");
}

/// A registry without TLS, that answers as a test says.
async fn plain(scene: &Scene, lines: &str, answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    let server = Server::start("127.0.0.1:0", answers).await;
    scene.registries(&server.address.to_string(), &format!("  plainHttp: true\n{lines}"));
    server
}

/// The manifest of the component, as such a registry gives it.
fn manifest() -> String {
    let layer = json!({"mediaType": WASM, "digest": digest(labels()), "size": labels().len()});
    json!({"schemaVersion": 2, "layers": [layer]}).to_string()
}

fn blob() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", labels().len());
    [head.into_bytes(), labels().to_vec()].concat()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

/// What servers were asked, in order.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, whom: &str, request: &str) {
        let login = request.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
        let line = request.split(" HTTP/").next().unwrap_or_default();
        let login = login.map_or("nobody", |line| line.split_once(':').unwrap().1.trim());
        self.0.lock().unwrap().push(format!("{whom} {} as {login}", line.split(['?', '@']).next().unwrap_or_default()));
    }

    fn all(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_goes_to_the_host_that_it_is_for_and_nowhere_else() {
    let scene = Scene::new();
    let asked = Asked::default();
    let note = asked.clone();
    let storage = Server::start("127.0.0.1:0", move |request| {
        note.note("storage", request);
        blob()
    })
    .await;
    let note = asked.clone();
    let tokens = Server::start("127.0.0.1:0", move |request| {
        note.note("tokens", request);
        answer("200 OK", r#"{"token": "abc"}"#)
    })
    .await;
    let challenge = format!(
        "HTTP/1.1 401 Who\r\nwww-authenticate: Bearer realm=\"http://{}/token\",service=\"r\"\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n",
        tokens.address
    );
    let (note, to) = (asked.clone(), format!("http://{}/blob?signed", storage.address));
    let registry = plain(&scene, "  pullSecret: pull.json\n", move |request| {
        note.note("registry", request);
        match request {
            _ if !request.to_lowercase().contains("authorization:") => challenge.clone().into_bytes(),
            _ if request.contains("/blobs/") => redirect(&to),
            _ => answer("200 OK", &manifest()),
        }
    })
    .await;
    let (host, other) = (registry.address.to_string(), tokens.address.to_string());
    scene.policy(&format!("oci://{host}/acme/labels@{}", digest(manifest().as_bytes())));
    let pull = |hosts: &[&str]| {
        let auths: serde_json::Map<_, _> =
            hosts.iter().map(|host| ((*host).to_owned(), json!({"username": "u", "password": "p"}))).collect();
        fs::write(scene.at("plugins/pull.json"), json!({"auths": auths}).to_string()).unwrap();
    };
    // Of the registry's own password nobody else hears.
    pull(&[&host]);
    scene.is_good();
    let blob_path = format!("/v2/acme/labels/blobs/{}", digest(labels()));
    let manifest_path = "registry GET /v2/acme/labels/manifests/sha256:";
    let all = asked.all();
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all[0].starts_with(manifest_path) && all[0].ends_with("as nobody"), "{all:?}");
    assert_eq!(all[1], "tokens GET /token as nobody");
    assert!(all[2].starts_with(manifest_path) && all[2].ends_with("as Bearer abc"), "{all:?}");
    assert_eq!(all[3], format!("registry GET {blob_path} as Bearer abc"));
    assert_eq!(all[4], "storage GET /blob as nobody");
    // That of the server of tokens goes there.
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    pull(&[&host, &other]);
    scene.is_good();
    assert!(asked.all().contains(&"tokens GET /token as Basic dTpw".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_inside_or_without_end_is_not_followed() {
    let scene = Scene::new();
    let inside = Server::start("127.0.0.2:0", |_| blob()).await;
    for (to, kind, said) in [
        (format!("http://{}/", inside.address), ErrorKind::Refused, "no address of the internet"),
        ("http://169.254.169.254/latest".into(), ErrorKind::Refused, "169.254.169.254"),
        ("ftp://127.0.0.1/x".into(), ErrorKind::Refused, "not https"),
        ("http://u:p@127.0.0.1/x".into(), ErrorKind::Refused, "not https"),
        ("/round/and/round".into(), ErrorKind::Failed, "more than 3 times"),
    ] {
        let server = plain(&scene, "", move |request| {
            if request.contains("/manifests/") { answer("200 OK", &manifest()) } else { redirect(&to) }
        })
        .await;
        scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
        scene.is_refused(kind, said);
    }
    assert_eq!(inside.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_read_no_further_than_it_may_be_long() {
    let scene = Scene::new();
    let endless = || {
        let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
        answer.resize(2 << 20, b' ');
        answer
    };
    let server = plain(&scene, "", move |_| endless()).await;
    scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
    scene.is_refused(ErrorKind::Damaged, "more than 1048576 bytes");
    let server =
        plain(
            &scene,
            "",
            move |request| {
                if request.contains("/manifests/") { answer("200 OK", &manifest()) } else { endless() }
            },
        )
        .await;
    scene.policy(&format!("oci://{}/acme/labels@{}", server.address, digest(manifest().as_bytes())));
    scene.is_refused(ErrorKind::Damaged, &format!("more than {} bytes", labels().len()));
}
