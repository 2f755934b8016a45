//! Repositories on a real S3 server, through the command line.

mod broken;
mod identity;
mod locked;
mod refused;
mod webdav;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::files::random_bytes;
use remora_tests::s3::{KEY, SECRET};
use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Lab, MIB, Meddler, Plugin, Remora, S3, Transport};
use serde_json::Value;

/// A VM with a repository in a bucket.
struct Protected {
    domain: Domain<'static>,
    s3: S3,
    remora: Remora,
    /// What the repository is reached through, if it is not remora's own client.
    plugin: Option<Plugin>,
}

/// A point and what the hypervisor held then.
struct Kept {
    report: Value,
    truth: PathBuf,
}

impl Kept {
    fn point(&self) -> &str {
        self.report["point"].as_str().unwrap()
    }

    /// What the point added to the repository.
    fn stored(&self) -> u64 {
        self.report["disks"][0]["stored"].as_u64().unwrap()
    }
}

impl Protected {
    fn new(name: &str) -> Self {
        let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 128 * MIB)).paused();
        let s3 = S3::start();
        let url = s3.url(&s3.bucket("backups"));
        let remora = s3.owner(Remora::new(Lab::shared(), url));
        remora.ok(["repo", "init"]);
        Self { domain, s3, remora, plugin: None }
    }

    /// With the same bucket behind the mover of the SDK's example.
    fn behind_a_plugin(name: &str) -> Self {
        let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 128 * MIB)).paused();
        let s3 = S3::start();
        let plugin = Plugin::of_bucket(s3.address(), &s3.bucket("backups"));
        let remora = Remora::new(Lab::shared(), plugin.url("a/repository")).with("REMORA_PLUGINS", plugin.folder());
        remora.ok(["repo", "init"]);
        Self { domain, s3, remora, plugin: Some(plugin) }
    }

    fn back_up(&self, args: &[&str]) -> Kept {
        let truth = self.domain.truth("vda");
        let line = ["backup", self.domain.name(), "--quiesce", "never"];
        Kept { report: self.remora.json(line.iter().chain(args)), truth }
    }

    fn assert_restores(&self, kept: &Kept) {
        let to = Lab::shared().scratch("restored").join("vda.raw");
        self.remora.ok(["restore", kept.point(), "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, &kept.truth);
        fs::remove_file(to).unwrap();
    }

    fn assert_mounts(&self, kept: &Kept) {
        let folder = Lab::shared().scratch("mounted").join("point");
        let mut command = self.remora.command(["mount", kept.point(), folder.to_str().unwrap(), "--disks-only"]);
        let mut mount = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(mount.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert_same(&folder.join("disks/vda.raw"), &kept.truth);
        kill(Pid::from_raw(mount.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(mount.wait().unwrap().success());
    }

    /// The files that hold the repository's segments.
    fn segments(&self) -> Vec<PathBuf> {
        self.objects("s")
    }

    /// The files that hold the objects in folders of this name.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.s3.files("backups"), &mut |path| {
            if path.parent().and_then(Path::file_name).is_some_and(|name| name == folder) {
                found.push(path.to_owned());
            }
        });
        found.sort_unstable();
        found
    }
}

fn walk(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), see);
        } else {
            see(&entry.path());
        }
    }
}

/// A check of `remora doctor -o json`, whatever its exit code.
#[track_caller]
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name:?} in {report:#}"))
}

#[test]
fn a_vm_goes_to_s3_and_comes_back() {
    goes_and_comes_back(&Protected::new("on s3"));
}

#[test]
fn a_vm_goes_behind_a_plugin_and_comes_back() {
    goes_and_comes_back(&Protected::behind_a_plugin("behind a plugin"));
}

fn goes_and_comes_back(vm: &Protected) {
    vm.domain.write_bytes("vda", 0, &random_bytes("s3", 100 << 20));
    let before = vm.s3.requests("s3_PutObject");
    let full = vm.back_up(&[]);
    let puts = (vm.s3.requests("s3_PutObject") - before) as u64;
    assert!(full.stored() > 100 * MIB);
    assert!(puts <= full.stored() / (8 * MIB) + 10, "{puts} PUTs for {} bytes", full.stored());
    vm.domain.write_bytes("vda", 50 * MIB, &random_bytes("more", 1 << 20));
    let increment = vm.back_up(&[]);
    assert_eq!(increment.report["decision"], "incremental");
    for kept in [&full, &increment] {
        vm.assert_restores(kept);
        vm.assert_mounts(kept);
    }
    let listed = vm.remora.json(["points"]);
    let sampled = vm.plugin.is_some().then_some(true);
    assert!(listed.as_array().unwrap().iter().all(|point| point["sampled"].as_bool() == sampled), "{listed:#}");
    let verified = vm.remora.json(["verify"]);
    assert!(verified.as_array().unwrap().iter().all(|point| point["ok"] == true), "{verified:#}");
    assert_eq!(vm.remora.json(["repo", "status"])["points"], 2);
}

#[test]
fn what_a_lifecycle_rule_ate_is_named_and_other_points_are_whole() {
    what_is_eaten_is_named(&Protected::new("on s3 eaten"));
}

#[test]
fn what_a_lifecycle_rule_ate_behind_a_plugin_is_named_and_other_points_are_whole() {
    what_is_eaten_is_named(&Protected::behind_a_plugin("by plugin eaten"));
}

fn what_is_eaten_is_named(vm: &Protected) {
    vm.domain.write_bytes("vda", 0, &random_bytes("eaten", 20 << 20));
    let whole = vm.back_up(&[]);
    let before = vm.segments();
    let torn = vm.back_up(&["--full"]);
    let eaten = vm.segments().into_iter().filter(|path| !before.contains(path));
    let eaten = eaten.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_file(&eaten).unwrap();
    let name = eaten.file_name().unwrap().to_str().unwrap();
    let ran = vm.remora.fails(["verify", torn.point()], 7, "");
    assert!(format!("{ran:?}").contains(name), "{name} is not in {ran:?}");
    let to = Lab::shared().scratch("torn").join("vda.raw");
    vm.remora.fails(["restore", torn.point(), "--disk", "vda", "--to", to.to_str().unwrap()], 7, name);
    vm.assert_restores(&whole);
}

#[test]
fn doctor_finds_in_a_plugin_s_store_all_that_a_vault_needs() {
    let s3 = S3::start();
    let plugin = Plugin::of_bucket(s3.address(), &s3.bucket("plain"));
    let remora = Remora::new(Lab::shared(), plugin.url("")).with("REMORA_PLUGINS", plugin.folder());
    let report = remora.json(["doctor", plugin.url("").as_str()]);
    for name in ["create-only PUT", "ranged GET", "list after write", "clock", "multipart", "delete"] {
        assert_eq!(check(&report, &format!("store: {name}"))["ok"], true, "{report:#}");
    }
    let mut left = Vec::new();
    walk(&s3.files("plain"), &mut |path| left.push(path.file_name().unwrap().to_owned()));
    assert_eq!(left, ["create-only"]);
}

#[test]
fn a_plugin_that_is_not_there_or_not_let_to_its_server_says_what_to_do() {
    let s3 = S3::start();
    let plugin = Plugin::of_bucket(s3.address(), &s3.bucket("backups"));
    let before = s3.all_requests();
    let remora = Remora::new(Lab::shared(), "plugin:other/x").with("REMORA_PLUGINS", plugin.folder());
    remora.fails(["points"], 3, "other.yaml");
    let document = plugin.folder().join("s3.yaml");
    let text = fs::read_to_string(&document).unwrap();
    fs::write(&document, text.replace("['127.0.0.1']", "['10.0.0.1']")).unwrap();
    let remora = remora.with("REMORA_REPO", plugin.url("x"));
    let ran = remora.run(["points"]);
    assert!(ran.code() != 0 && ran.stderr.contains("network.addresses"), "{ran:?}");
    assert_eq!(s3.all_requests(), before, "the server was asked");
}

#[test]
fn doctor_tries_what_the_store_can_do_and_cleans_up() {
    let s3 = S3::start();
    let remora = s3.owner(Remora::new(Lab::shared(), s3.url(&s3.bucket("plain"))));
    // Before there is a repository: the one that is named is tried, and not opened.
    let report = remora.json(["doctor", s3.url("plain").as_str()]);
    for name in ["create-only PUT", "ranged GET", "list after write", "clock", "multipart", "delete", "checksum"] {
        assert_eq!(check(&report, &format!("store: {name}"))["ok"], true, "{report:#}");
    }
    let lock = check(&report, "store: Object Lock");
    assert_eq!((&lock["ok"], &lock["optional"]), (&false.into(), &true.into()), "{report:#}");
    assert!(lock["advice"].as_str().unwrap().contains("delete every backup"), "{lock:#}");
    let mut left = Vec::new();
    walk(&s3.files("plain"), &mut |path| left.push(path.file_name().unwrap().to_owned()));
    assert_eq!(left, ["create-only"]);
    let report = remora.json(["doctor", s3.url(&s3.locking_bucket("locking")).as_str()]);
    assert_eq!(check(&report, "store: Object Lock")["ok"], true, "{report:#}");
    remora.ok(["repo", "init"]);
    assert_eq!(check(&remora.json(["doctor"]), "repository")["ok"], true);
}

#[test]
fn a_server_with_a_ca_of_its_own_needs_the_ca_file() {
    let s3 = S3::start_with(Transport::Https);
    let remora = s3.owner(Remora::new(Lab::shared(), s3.url(&s3.bucket("backups"))));
    remora.clone().without("REMORA_CA_FILE").fails(["repo", "init"], 9, "--ca-file");
    remora.ok(["repo", "init"]);
    remora.ok(["points"]);
}

#[test]
fn a_proxy_is_used_where_the_environment_names_one() {
    let s3 = S3::start();
    let proxy = Meddler::before(s3.address());
    let remora = s3.owner(Remora::new(Lab::shared(), s3.url(&s3.bucket("backups"))));
    let remora = remora.with("HTTP_PROXY", format!("http://{}", proxy.address())).with("NO_PROXY", "");
    remora.ok(["repo", "init"]);
    assert!(proxy.seen("PUT", "remora.json") > 0);
    let seen = proxy.seen("GET", "remora.json");
    remora.with("NO_PROXY", "127.0.0.1").ok(["points"]);
    assert_eq!(proxy.seen("GET", "remora.json"), seen);
}

/// The files of a mounted Secret, as Kubernetes lays them out to exchange them at once.
fn secret(files: &[(&str, &str)]) -> PathBuf {
    let folder = Lab::shared().scratch("secret");
    let version = folder.join("..2026_01_02_03_04_05.0123456789");
    fs::create_dir(&version).unwrap();
    symlink(version.file_name().unwrap(), folder.join("..data")).unwrap();
    for (name, text) in files {
        fs::write(version.join(name), text).unwrap();
        symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn the_files_of_a_kubernetes_secret_are_credentials() {
    let s3 = S3::start();
    let remora = Remora::new(Lab::shared(), s3.url(&s3.bucket("backups")));
    let in_one = format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    let right = [
        secret(&[("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]),
        secret(&[("AWS_ACCESS_KEY_ID", &format!("{KEY}\n")), ("AWS_SECRET_ACCESS_KEY", &format!("{SECRET}\n"))]),
        secret(&[("cloud", &in_one)]),
    ];
    for (folder, command) in right.iter().zip([&["repo", "init"][..], &["points"], &["points"]]) {
        // What happens to be in the environment is not mixed in.
        remora.clone().with("AWS_ACCESS_KEY_ID", "nobody").with("REMORA_CREDENTIALS", folder).ok(command);
        remora.ok([&["repo", "status", "--credentials"], &[folder.to_str().unwrap()][..]].concat());
    }
    let wrong = [
        (secret(&[("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", "wrong")]), 9, "SignatureDoesNotMatch"),
        (secret(&[("cloud", &in_one.replace(SECRET, "wrong"))]), 9, "SignatureDoesNotMatch"),
        (secret(&[("username", KEY), ("password", SECRET)]), 2, "AWS_ACCESS_KEY_ID"),
    ];
    for (folder, code, says) in wrong {
        s3.owner(remora.clone()).with("REMORA_CREDENTIALS", &folder).fails(["points"], code, says);
    }
}

#[test]
fn a_bucket_is_found_in_the_path_and_in_the_hosts_name() {
    let s3 = S3::start();
    let bucket = s3.bucket("backups");
    // Names below localhost are not known everywhere; a proxy is told the name, and need not look it up.
    let proxy = Meddler::before(s3.address());
    let port = s3.address().port();
    let endpoint = format!("http://localhost:{port}");
    let url = |style: &str| format!("s3://{bucket}/a/repository?endpoint={endpoint}&region=us-east-1{style}");
    let remora = s3.owner(Remora::new(Lab::shared(), url("&path-style=false")));
    let remora = remora.with("HTTP_PROXY", format!("http://{}", proxy.address())).with("NO_PROXY", "");
    let by_name = format!("http://backups.localhost:{port}/a/repository/remora.json");
    let by_path = format!("http://localhost:{port}/backups/a/repository/remora.json");
    remora.ok(["repo", "init"]);
    assert!(proxy.seen("PUT", &by_name) > 0);
    assert_eq!(proxy.seen("PUT", "/backups/"), 0);
    assert!(s3.files("backups").join("a/repository/remora.json").is_file());
    // It is the same repository by either way; with an endpoint, the path is what is taken if nothing is said.
    remora.ok(["points"]);
    assert_eq!((proxy.seen("GET", &by_name) > 0, proxy.seen("GET", &by_path)), (true, 0));
    for style in ["", "&path-style=true"] {
        let (names, paths) = (proxy.seen("GET", &by_name), proxy.seen("GET", &by_path));
        remora.clone().with("REMORA_REPO", url(style)).ok(["points"]);
        assert_eq!(proxy.seen("GET", &by_name), names, "{style:?}");
        assert!(proxy.seen("GET", &by_path) > paths, "{style:?}");
    }
}

#[test]
fn no_more_requests_are_made_each_second_than_allowed() {
    const ALLOWED: u32 = 4;
    let vm = Protected::new("on s3 slowly");
    vm.domain.write_bytes("vda", 0, &random_bytes("slowly", 1 << 20));
    let before = vm.s3.all_requests();
    let start = Instant::now();
    vm.back_up(&["--limit-requests", &ALLOWED.to_string()]);
    let (took, requests) = (start.elapsed(), vm.s3.all_requests() - before);
    // The first one goes at once.
    let least = Duration::from_secs(1) * u32::try_from(requests - 1).unwrap() / ALLOWED;
    assert!(requests > 10, "{requests}: too few to tell");
    assert!(took >= least, "{requests} requests took {took:?}, at least {least:?} were asked for");
}
