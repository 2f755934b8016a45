//! `authorize` has two versions, and of the newer one a call is made for each context.

use remora_core::policy::{Access, Action, Approval, Authorize, Decision, Effect};
use remora_plugins::{AuthorizePolicy, builtins};
use wit_parser::Resolve;

use super::components::{component, host, policy, wit};
use super::folder::{now, request};

/// Of 0.2.0, with `authorize` as text.
fn load(authorize: &str) -> AuthorizePolicy {
    AuthorizePolicy::load(&host(), &policy("authorizer@0.2.0", "(i32.const 0)", authorize, ""), "{}").unwrap()
}

/// Allows everything, and says in `cache-ttl-ms` how many accesses the call had.
const COUNTS: &str = "(local $count i32) (local $at i32) (local $left i32)
    (local.set $count (i32.load offset=108 (local.get 0)))
    (local.set $left (local.get $count))
    (local.set $at (i32.const 8192))
    (block $end (loop $next
        (br_if $end (i32.eqz (local.get $left)))
        (i64.store (local.get $at) (i64.const 0))
        (i64.store offset=8 (local.get $at) (i64.const 0))
        (i64.store offset=16 (local.get $at) (i64.const 0))
        (i32.store offset=24 (local.get $at) (i32.const 0))
        (i32.store offset=28 (local.get $at) (local.get $count))
        (local.set $at (i32.add (local.get $at) (i32.const 32)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 64) (i32.const 8192))
    (i32.store (i32.const 68) (local.get $count))
    (i32.const 64)";

fn changed(change: impl FnOnce(&mut Access)) -> Access {
    let mut access = request("root", "/a");
    change(&mut access);
    access
}

fn counts(decisions: Vec<Decision>) -> Vec<u32> {
    decisions.into_iter().map(|decision| decision.cache_ttl_ms).collect()
}

#[test]
fn questions_in_a_row_that_differ_in_the_file_alone_are_one_call() {
    let policy = load(COUNTS);
    let same = || request("root", "/a");
    let (path, action) = (request("root", "/b"), changed(|access| access.action = Action::List));
    assert_eq!(counts(policy.authorize(&[same(), path, action, same()]).unwrap()), [4; 4]);
    assert_eq!(
        counts(policy.authorize(&vec![same(); 1_500]).unwrap()),
        [[1_000; 1_000].as_slice(), &[500; 500]].concat()
    );
    assert!(policy.authorize(&[]).unwrap().is_empty());

    let second = jiff::SignedDuration::from_secs(1);
    let consent = Approval { user: "eve".into(), groups: Vec::new(), granted: now(), expires: now() + second };
    let others = [
        ("the user", request("eve", "/a")),
        ("the groups", changed(|access| access.subject.groups.push("web".into()))),
        ("the grants", changed(|access| access.subject.grants.push("get pods".into()))),
        ("the VM's namespace", changed(|access| access.vm.namespace = "shop".into())),
        ("its UUID", changed(|access| access.vm.uid = "1".into())),
        ("its labels", changed(|access| drop(access.vm.labels.insert("a".into(), "b".into())))),
        ("the point", changed(|access| access.point = "0123456789abcdef-2".into())),
        ("its time", changed(|access| access.point_time += second)),
        ("now", changed(|access| access.now += second)),
        ("the consents", changed(|access| access.approvals.push(consent))),
    ];
    for (what, other) in others {
        let asked = [same(), same(), other, same()];
        for decisions in [policy.authorize(&asked), policy.authorize_fresh(&asked)] {
            assert_eq!(counts(decisions.unwrap()), [2, 2, 1, 1], "{what}");
        }
    }
}

#[test]
fn each_question_of_a_batch_of_several_contexts_gets_its_own_decision() {
    let (_, paths) = builtins().find(|(name, _)| *name == "paths").unwrap();
    let settings =
        r#"{"rules": [{"users": ["alice"], "allowPaths": ["/a/**"]}, {"users": ["bob"], "allowPaths": ["/b/**"]}]}"#;
    let policy = AuthorizePolicy::load(&host(), paths, settings).unwrap();
    let (asked, expected): (Vec<_>, Vec<_>) = [
        (request("alice", "/a/1"), Effect::Allow),
        (request("alice", "/b/1"), Effect::Abstain),
        (request("bob", "/b/2"), Effect::Allow),
        (request("alice", "/a/2"), Effect::Allow),
        (request("bob", "/a/3"), Effect::Abstain),
        (request("bob", "/b/3"), Effect::Allow),
    ]
    .into_iter()
    .unzip();
    for decisions in [policy.authorize(&asked), policy.authorize_fresh(&asked)] {
        assert_eq!(decisions.unwrap().iter().map(|decision| decision.effect).collect::<Vec<_>>(), expected);
    }
}

/// To two questions it gives one answer and to one two, but for the first, harmless question (whose user's name has 6 letters).
const TAKES_AND_GIVES: &str = "
    (i32.store (i32.const 64) (i32.const 128))
    (i32.store (i32.const 68) (if (result i32) (i32.eq (i32.load offset=4 (local.get 0)) (i32.const 6))
        (then (i32.const 1))
        (else (i32.sub (i32.const 3) (i32.load offset=108 (local.get 0))))))
    (i32.const 64)";

#[test]
fn each_call_must_have_as_many_answers_as_questions() {
    let policy = load(TAKES_AND_GIVES);
    // In all it would be three of three.
    let asked = [request("root", "/a"), request("root", "/b"), request("eve", "/a")];
    for (asked, said) in
        [(&asked[..], "2 questions and gave 1 answers"), (&asked[2..], "1 questions and gave 2 answers")]
    {
        let told = policy.authorize(asked).unwrap_err().chain();
        assert!(told.contains(said), "{told}");
    }
}

/// One decision with a reason of 108 KiB.
const TALKS: &str = "
    (i32.store (i32.const 64) (i32.const 128))
    (i32.store (i32.const 68) (i32.const 1))
    (i32.store (i32.const 140) (i32.const 16384))
    (i32.store (i32.const 144) (i32.const 110592))
    (i32.const 64)";

/// What a host holds of answers does not grow with the calls that it makes.
#[test]
fn all_calls_of_a_batch_hand_over_as_much_as_one_may() {
    let policy = load(TALKS);
    let asked: Vec<_> = (0..100).map(|n| request(&format!("user-{n}"), "/a")).collect();
    assert_eq!(policy.authorize(&asked[..1]).unwrap()[0].reason.len(), 1_000);
    let told = policy.authorize(&asked).unwrap_err().chain();
    assert!(told.contains("fuel"), "{told}");
    assert_eq!(policy.authorize(&asked[..1]).unwrap().len(), 1);
}

#[test]
fn of_a_component_that_exports_both_versions_the_newer_is_called() {
    let text = r#"(module
        (memory (export "memory") 2)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
        (func (export "remora:policy/authorize@0.1.0#configure") (param i32 i32) (result i32) unreachable)
        (func (export "remora:policy/authorize@0.1.0#authorize") (param i32 i32) (result i32) unreachable)
        (func (export "remora:policy/authorize@0.2.0#configure") (param i32 i32) (result i32) (i32.const 0))
        (func (export "remora:policy/authorize@0.2.0#authorize") (param i32) (result i32)
            (i32.store (i32.const 64) (i32.const 128))
            (i32.store (i32.const 68) (i32.const 1))
            (i32.const 64)))"#;
    let mut resolve = Resolve::default();
    for version in ["0.1.0", "0.2.0"] {
        resolve.push_dir(wit().join("policy").join(version)).unwrap();
    }
    let world = "package acme:other@1.0.0;
                 world w { export remora:policy/authorize@0.1.0; export remora:policy/authorize@0.2.0; }";
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("w")).unwrap();
    let component = component(&wat::parse_str(text).unwrap(), &resolve, world);
    let policy = AuthorizePolicy::load(&host(), &component, "{}").unwrap();
    assert_eq!(policy.interface(), "remora:policy/authorize@0.2.0");
    assert_eq!(policy.authorize(&[request("root", "/a")]).unwrap()[0].effect, Effect::Allow);
}
