//! An access policy that fails denies, whatever the others say.

use std::fs;

use remora_plugins::set::Generation;
use remora_plugins::{AuthorizePolicy, Refused};

use super::components::{host, late, policy};
use super::folder::{code, errors, next, now, request};

/// The world of each version.
const AUTHORIZERS: [&str; 2] = ["authorizer", "authorizer@0.2.0"];

/// A policy that loads well and then does what is given, for which there is a list at 64 with one decision, at 128.
fn decides(world: &str, authorize: &str) -> Vec<u8> {
    let list = "(i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 1))";
    late(world, &format!("{list} {authorize}"), "")
}

#[test]
fn every_failure_of_an_access_policy_denies() {
    // One decision, which allows.
    let allow = "(i32.store8 (i32.const 128) (i32.const 0))";
    // With one obligation, `x`; whether it is required is its last field.
    let obliges = |required: u8| {
        format!(
            "{allow} (i32.store (i32.const 148) (i32.const 200)) (i32.store (i32.const 152) (i32.const 1))
             (i32.store8 (i32.const 300) (i32.const 120))
             (i32.store (i32.const 200) (i32.const 300)) (i32.store (i32.const 204) (i32.const 1))
             (i32.store8 (i32.const 216) (i32.const {required})) (i32.const 64)"
        )
    };
    let table = [
        ("it abstains", "(i32.store8 (i32.const 128) (i32.const 2)) (i32.const 64)".to_owned(), (true, "owner")),
        ("it allows", format!("{allow} (i32.const 64)"), (true, "owner")),
        ("an obligation that need not be known", obliges(0), (true, "owner")),
        ("an obligation that must be known", obliges(1), (false, "unknown-obligation")),
        ("it denies", "(i32.store8 (i32.const 128) (i32.const 1)) (i32.const 64)".into(), (false, "")),
        ("it traps", "unreachable".into(), (false, "policy-failed")),
        ("it does not end", "(loop $for_ever (br $for_ever)) (i32.const 64)".into(), (false, "policy-failed")),
        ("it answers nothing", "(i32.const 0)".into(), (false, "policy-failed")),
        (
            "an effect that there is not",
            "(i32.store8 (i32.const 128) (i32.const 9)) (i32.const 64)".into(),
            (false, "policy-failed"),
        ),
    ];
    let host = host();
    for world in AUTHORIZERS {
        for (name, authorize, (allowed, said)) in &table {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("late.wasm"), decides(world, authorize)).unwrap();
            let document = "kind: AccessPolicy\nname: files\nauthorize:\n\
                            - {module: builtin:owners, settings: {users: [root]}}\n- {module: file:late.wasm}\n";
            fs::write(folder.path().join("access.yaml"), document).unwrap();
            let generation = next(&Generation::default(), &host, folder.path(), now());
            assert_eq!(errors(&generation), [""; 0], "{world}: {name}");
            for _ in 0..2 {
                let decided = code(&generation, "root", "/x", now());
                assert_eq!(decided, (*allowed, (*said).to_owned()), "{world}: {name}");
            }
        }
    }
}

const HANGS: &str = "(loop $for_ever (br $for_ever)) (i32.const 64)";

/// All of them have 100 ms together, and those that only look on what the others leave.
#[test]
fn policies_that_hang_take_one_deadline_together_and_shadows_none_of_it() {
    let host = host();
    let decided = |bindings: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("late.wasm"), late("authorizer@0.2.0", HANGS, "")).unwrap();
        let document = format!("kind: AccessPolicy\nname: files\nauthorize:\n{bindings}");
        fs::write(folder.path().join("access.yaml"), document).unwrap();
        let generation = next(&Generation::default(), &host, folder.path(), now());
        assert_eq!(errors(&generation), [""; 0]);
        generation.authorize(&[request("root", "/x")], now()).remove(0)
    };
    let owners = "- {module: builtin:owners, settings: {users: [root]}}\n";
    let outcome = decided(&format!("{}{owners}", "- {module: file:late.wasm}\n".repeat(3)));
    assert_eq!((outcome.allowed, outcome.code.as_str()), (false, "policy-failed"));
    let reasons: Vec<_> = outcome.said.iter().map(|said| said.reason.as_str()).collect();
    assert!(reasons[0].contains("did not answer"), "{reasons:?}");
    assert!(reasons.len() == 4 && reasons[1..].iter().all(|reason| reason.contains("was not asked")), "{reasons:?}");

    let outcome = decided(&format!("- {{module: file:late.wasm, mode: shadow}}\n{owners}"));
    assert_eq!((outcome.allowed, outcome.code.as_str()), (true, "owner"));
    let codes: Vec<_> = outcome.said.iter().map(|said| said.code.as_str()).collect();
    assert_eq!(codes, ["policy-failed", "owner"]);
}

/// The longer a policy takes to read its settings, the sooner it is refused, and by the time of a decision: its first instance has
/// longer, but later ones start while somebody waits.
#[test]
fn an_instance_starts_within_the_time_of_the_decision_that_it_is_for() {
    let host = host();
    let abstains = "(i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 1))
        (i32.store8 (i32.const 128) (i32.const 2)) (i32.const 64)";
    let slow = |rounds: u32| {
        let configure = format!(
            "(local $n i32)
             (loop $more
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const {rounds}))))
             (i32.const 0)"
        );
        AuthorizePolicy::load(&host, &policy("authorizer", &configure, abstains, ""), "{}").err()
    };
    let refused = (20..31).find_map(|power| slow(1 << power));
    let Some(Refused::Because(error)) = refused else { panic!("{refused:?}") };
    assert!(error.chain().contains("did not answer within 100 ms"), "{}", error.chain());
}
