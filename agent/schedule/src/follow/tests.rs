#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::future::poll_fn;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use remora_plugins::{Digest, HostOptions, Registries};

use super::*;

const POLICY: &str = "\
kind: BackupPolicy
name: nightly
select: {module: 'MODULE', settings: {names: ['*']}}
schedule: {module: builtin:cron, settings: {cron: 15 2 * * *}}
";

/// A server that hangs up on everybody, and how often it did. It does so once it was asked: what is said of it is always the same.
fn hangs_up() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            if connection.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (host, asked)
}

#[tokio::test]
async fn a_module_that_cannot_be_had_is_tried_again_and_that_it_still_cannot_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let (policies, plugins) = (dir.path().join("policies"), dir.path().join("plugins"));
    fs::create_dir(&policies).unwrap();
    fs::create_dir(&plugins).unwrap();
    let (host, asked) = hangs_up();
    let registries = |more: &str| {
        let text = format!(
            "kind: Registries\nregistries:\n- {{host: '{host}', addresses: [127.0.0.1], plainHttp: true}}\n{more}"
        );
        fs::write(plugins.join("registries.yaml"), text).unwrap();
    };
    registries("");
    let policy = |module: &str| fs::write(policies.join("nightly.yaml"), POLICY.replace("MODULE", module)).unwrap();
    policy(&format!("oci://{host}/acme/labels@sha256:{}", "0".repeat(64)));
    let options = HostOptions { registries: Registries::new(&plugins, None), ..HostOptions::default() };
    let host = Host::new(&options).unwrap();
    let mut followed = Policies::new(policies.clone(), host, None, PolicyMetrics::default());
    let current = followed.subscribe();
    let standing = || {
        let generation = current.borrow();
        (generation.number, generation.broken().count())
    };
    followed.reload().await.unwrap();
    assert_eq!((standing(), asked.load(Ordering::SeqCst) > 0), ((1, 1), true));
    followed.reload().await.unwrap();
    assert_eq!(standing(), (1, 1));
    // Another document of registries: what came of it is told, and once.
    registries("# another one\n");
    followed.reload().await.unwrap();
    followed.reload().await.unwrap();
    assert_eq!(standing(), (2, 1));
    policy("builtin:labels");
    followed.reload().await.unwrap();
    assert_eq!(standing(), (3, 0));
    // What has no module from anywhere needs nobody's trust.
    registries("# yet another one\n");
    followed.reload().await.unwrap();
    assert_eq!(standing(), (3, 0));
}

/// A server that takes a request and says nothing. Tells of each one, and whether whoever asked hung up.
fn says_nothing() -> (String, std::sync::mpsc::Receiver<()>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, left) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let (tell, asked) = std::sync::mpsc::channel();
    let counted = Arc::clone(&left);
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let mut bytes = [0; 4096];
            if std::io::Read::read(&mut connection, &mut bytes).is_ok_and(|read| read > 0) {
                tell.send(()).ok();
                while std::io::Read::read(&mut connection, &mut bytes).is_ok_and(|read| read > 0) {}
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (host, asked, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_nothing_holds_up_no_other_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (policies, plugins) = (dir.path().join("policies"), dir.path().join("plugins"));
    fs::create_dir(&policies).unwrap();
    fs::create_dir(&plugins).unwrap();
    let (host, asked, left) = says_nothing();
    let text =
        format!("kind: Registries\nregistries:\n- {{host: '{host}', addresses: [127.0.0.1], plainHttp: true}}\n");
    fs::write(plugins.join("registries.yaml"), text).unwrap();
    let remote = POLICY.replace("MODULE", &format!("oci://{host}/acme/labels@sha256:{}", "0".repeat(64)));
    fs::write(policies.join("a-remote.yaml"), remote.replace("nightly", "remote")).unwrap();
    let local = |cron: &str| POLICY.replace("MODULE", "builtin:labels").replace("15 2 * * *", cron);
    fs::write(policies.join("local.yaml"), local("15 2 * * *")).unwrap();
    let registries = Registries::new(&plugins, Some(dir.path()));
    let host = Host::new(&HostOptions { registries, ..HostOptions::default() }).unwrap();
    let followed = Policies::new(policies.clone(), host, None, PolicyMetrics::default());
    let (mut current, cancel) = (followed.subscribe(), CancellationToken::new());
    let following = tokio::spawn(followed.keep(cancel.clone()));
    let text = |generation: &Generation| generation.files.iter().find(|file| file.file == "local.yaml").unwrap().text;
    let first = current.wait_for(|generation| generation.backups().count() == 1).await.unwrap().clone();
    let broken: Vec<_> = first.broken().map(|(file, error)| (file.file.clone(), error.chain())).collect();
    assert!(broken.len() == 1 && broken[0].0 == "a-remote.yaml" && broken[0].1.contains("being fetched"), "{broken:?}");
    // While it is asked, another policy changes.
    tokio::task::spawn_blocking(move || asked.recv().unwrap()).await.unwrap();
    fs::write(policies.join("local.yaml"), local("30 3 * * *")).unwrap();
    current.wait_for(|generation| text(generation) != text(&first)).await.unwrap();
    assert_eq!(left.load(Ordering::SeqCst), 0, "the registry was given up first");
    cancel.cancel();
    following.await.unwrap();
}

/// Makes a compiler that ends without an answer, once it is told to.
const COMPILER: &str = r#"mkfifo "$1/gate" &&
printf '#!/bin/sh\nread -r line < %s/gate\n' "$1" > "$1/compiler" &&
chmod 700 "$1/compiler""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_takes_long_to_compile_holds_up_no_other_policy() {
    let dir = tempfile::tempdir().unwrap();
    let policies = dir.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let made = std::process::Command::new("/bin/sh").args(["-c", COMPILER, "sh"]).arg(dir.path()).status();
    assert!(made.unwrap().success());
    // So begins a component.
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.resize(1 << 20, 0);
    fs::write(policies.join("slow.wasm"), component).unwrap();
    let slow = POLICY.replace("MODULE", "file:slow.wasm").replace("nightly", "slow");
    fs::write(policies.join("a-slow.yaml"), slow).unwrap();
    let local = |cron: &str| POLICY.replace("MODULE", "builtin:labels").replace("15 2 * * *", cron);
    fs::write(policies.join("local.yaml"), local("15 2 * * *")).unwrap();
    let compiler = Some(dir.path().join("compiler"));
    let host = Host::new(&HostOptions { compiler, ..HostOptions::default() }).unwrap();
    let followed = Policies::new(policies.clone(), host, None, PolicyMetrics::default());
    let (mut current, cancel) = (followed.subscribe(), CancellationToken::new());
    let following = tokio::spawn(followed.keep(cancel.clone()));
    let text = |generation: &Generation| generation.files.iter().find(|file| file.file == "local.yaml").unwrap().text;
    let first = current.wait_for(|generation| generation.backups().count() == 1).await.unwrap().clone();
    fs::write(policies.join("local.yaml"), local("30 3 * * *")).unwrap();
    let second = current.wait_for(|generation| text(generation) != text(&first)).await.unwrap().clone();
    for generation in [first, second] {
        let waiting: Vec<_> = generation.files.iter().filter(|file| file.is_waiting()).collect();
        assert!(waiting.len() == 1 && waiting[0].file == "a-slow.yaml", "{:?}", generation.files);
    }
    // Opened once the compiler has begun. What came of it is told without any change of the folder.
    let gate = dir.path().join("gate");
    tokio::task::spawn_blocking(move || fs::write(gate, "\n").unwrap()).await.unwrap();
    let ended =
        current.wait_for(|generation| generation.files.iter().all(|file| !file.is_waiting())).await.unwrap().clone();
    let told = ended.broken().next().unwrap().1.chain();
    assert!(told.contains("file:slow.wasm: compiling the component: "), "{told}");
    cancel.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn an_agent_that_starts_without_the_folder_has_the_last_good_versions() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, away) = (dir.path().join("policies"), dir.path().join("away"));
    fs::create_dir(&away).unwrap();
    fs::write(away.join("nightly.yaml"), POLICY.replace("MODULE", "builtin:labels")).unwrap();
    let host = Host::new(&HostOptions::default()).unwrap();
    let started = || {
        let kept = Some(Kept::new(dir.path().join("kept")));
        Policies::new(folder.clone(), host.clone(), kept, PolicyMetrics::default())
    };
    // Of each policy, whether it is stale.
    let stale = |policies: &Policies| {
        let current = policies.subscribe();
        let generation = current.borrow();
        generation.backups().map(|(_, since)| since.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(started().begin().await.unwrap_err().kind(), ErrorKind::NotFound, "nothing was good yet");
    fs::rename(&away, &folder).unwrap();
    let mut first = started();
    first.begin().await.unwrap();
    assert_eq!(stale(&first), [false]);
    fs::rename(&folder, &away).unwrap();
    let mut second = started();
    second.begin().await.unwrap();
    assert_eq!(stale(&second), [true]);
    fs::rename(&away, &folder).unwrap();
    second.reload().await.unwrap();
    assert_eq!(stale(&second), [false]);
}

/// Longer than anything takes, on a machine that is busy with other things.
const FOR_EVER: Duration = Duration::from_mins(10);

/// A policy that differs by its time.
fn at(cron: &str) -> String {
    POLICY.replace("MODULE", "builtin:labels").replace("15 2 * * *", cron)
}

/// One that looks at a folder often, whatever is told of it.
fn polling(folder: &Path) -> Policies {
    let host = Host::new(&HostOptions::default()).unwrap();
    let followed = Policies::new(folder.into(), host, None, PolicyMetrics::default());
    Policies { poll: Duration::from_millis(50), ..followed }
}

/// Waits until a document is in force.
async fn in_force(current: &mut watch::Receiver<Arc<Generation>>, document: &str) {
    let text = Some(Digest::of(document.as_bytes()));
    let there = current.wait_for(|generation| generation.files.iter().any(|file| file.active_text == text));
    let there = tokio::time::timeout(FOR_EVER, there).await;
    there.unwrap_or_else(|_| panic!("it is never in force: {document}")).unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_watched_is_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, away) = (dir.path().join("policies"), dir.path().join("away"));
    fs::create_dir(&away).unwrap();
    fs::write(away.join("nightly.yaml"), at("1 2 * * *")).unwrap();
    let followed = polling(&folder);
    let mut current = followed.subscribe();
    let mut following = pin!(followed.keep(CancellationToken::new()));
    // Once, and it has tried to watch a folder that is not there yet: nothing will be told of that.
    let begun = poll_fn(|context| Poll::Ready(following.as_mut().poll(context))).await;
    assert!(begun.is_pending());
    let changes = async {
        fs::rename(&away, &folder).unwrap();
        in_force(&mut current, &at("1 2 * * *")).await;
        fs::write(folder.join("nightly.yaml"), at("2 2 * * *")).unwrap();
        in_force(&mut current, &at("2 2 * * *")).await;
    };
    tokio::select! {
        () = following => panic!("it is followed until somebody says otherwise"),
        () = changes => {}
    }
}

/// As by a mount: what is watched stays as it was, and has another name or none.
#[tokio::test]
async fn a_folder_that_gives_way_to_another_of_its_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("policies");
    for (name, cron) in [("first", "1 2 * * *"), ("second", "2 2 * * *")] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("nightly.yaml"), at(cron)).unwrap();
    }
    symlink(dir.path().join("first"), &folder).unwrap();
    let followed = polling(&folder);
    let (mut current, cancel) = (followed.subscribe(), CancellationToken::new());
    let following = tokio::spawn(followed.keep(cancel.clone()));
    in_force(&mut current, &at("1 2 * * *")).await;
    symlink(dir.path().join("second"), dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), &folder).unwrap();
    in_force(&mut current, &at("2 2 * * *")).await;
    // Nor is it followed once only.
    fs::write(folder.join("nightly.yaml"), at("3 2 * * *")).unwrap();
    in_force(&mut current, &at("3 2 * * *")).await;
    cancel.cancel();
    following.await.unwrap();
}

/// After how many milliseconds it is read, if something changes at these.
async fn read_after(changes: impl IntoIterator<Item = u64>) -> u128 {
    let begun = tokio::time::Instant::now();
    let (sender, mut told) = mpsc::channel(1);
    let changing = async {
        for at in changes {
            tokio::time::sleep_until(begun + Duration::from_millis(at)).await;
            sender.try_send(()).ok();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = settled(&mut told) => begun.elapsed().as_millis(),
        () = changing => unreachable!("it changes no more, and stays"),
    }
}

/// The clock goes on when nothing else can, so nothing takes any time here.
#[tokio::test(start_paused = true)]
async fn a_folder_is_read_once_it_rests_and_one_that_never_rests_after_a_second() {
    let about = |read: u128, wanted: u128| (wanted..wanted + 10).contains(&read);
    for (changes, wanted) in [(vec![0], 300), (vec![50, 60, 70], 370), (vec![0, 200, 400, 600], 900)] {
        let read = read_after(changes.clone()).await;
        assert!(about(read, wanted), "{changes:?}: after {read} ms");
    }
    let read = read_after((0..).step_by(100)).await;
    assert!(about(read, 1_000), "after {read} ms");
}
