//! Hostile components: each costs its own call, and nothing else.

use remora_core::policy::{Authorize, Question, Retention, Schedule, Select, VmFacts};
use remora_core::retention::Candidate;
use remora_core::{Error, PointId, Result, VmName};
use remora_plugins::{AuthorizePolicy, Host, Refused, RetentionPolicy, SchedulePolicy, SelectPolicy};
use tokio::time::timeout;
use wit_component::dummy_module;
use wit_parser::ManglingAndAbi;

use super::components::{
    Call, FOR_EVER, WORLDS, call_of, component, host, late, module, policy, second, selector, versioned, world,
};
use super::folder::{now, request};

fn vm(name: &str) -> VmFacts {
    VmFacts::named(VmName::new(name).unwrap())
}

/// A policy of any world.
enum Policy {
    Select(SelectPolicy),
    Schedule(SchedulePolicy),
    Retention(RetentionPolicy),
    Authorize(AuthorizePolicy),
}

impl Policy {
    fn load(world: &str, host: &Host, component: &[u8]) -> Result<Self, Refused> {
        match world {
            "selector" => SelectPolicy::load(host, component, "{}").map(Self::Select),
            "scheduler" => SchedulePolicy::load(host, component, "{}").map(Self::Schedule),
            "keeper" => RetentionPolicy::load(host, component, "{}").map(Self::Retention),
            _ => AuthorizePolicy::load(host, component, "{}").map(Self::Authorize),
        }
    }

    /// Asks one question, about a machine of this name or a user; how many answers it gives.
    async fn ask(&self, name: &str) -> Result<usize> {
        let (vm, now) = (vm(name), now());
        Ok(match self {
            Self::Select(policy) => policy.select(&[vm]).await?.len(),
            Self::Schedule(policy) => {
                policy.next(&[Question { vm, now, after: now, seed: 0, runs: Vec::new() }]).await?.len()
            }
            Self::Retention(policy) => {
                let point = Candidate { point: PointId::new("0123456789abcdef", 1).unwrap(), time: now, held: None };
                let name = vm.name.clone();
                policy.of_vm(vm).judge(&name, &[point], now).await?.len()
            }
            Self::Authorize(policy) => policy.authorize(&[request(name, "/x")])?.len(),
        })
    }
}

/// A policy with a resource of its own, of which `$new` makes a handle: the second question makes 60,000. That is less than
/// wasmtime lets any component have that nobody limits further.
fn handle_bomb(of: &str) -> Vec<u8> {
    let many = "(loop $more
            (drop (call $new (i32.const 1)))
            (global.set $made (i32.add (global.get $made) (i32.const 1)))
            (br_if $more (i32.lt_u (global.get $made) (i32.const 60000))))
         (i32.const 0)";
    let new = r#"(import "[export]acme:other/thing@1.0.0" "[resource-new]r" (func $new (param i32) (result i32)))
        (global $made (mut i32) (i32.const 0))"#;
    let module = module(of, "(i32.const 0)", &second(of, many), new);
    let ((mut resolve, _), (_, version)) = (world(of), versioned(of));
    let world = format!(
        "package acme:other@1.0.0; interface thing {{ resource r; }}
         world w {{ export thing; export remora:policy/{}@{version}; }}",
        call_of(of).interface
    );
    let package = resolve.push_str("world.wit", &world).unwrap();
    let world = resolve.select_world(&[package], Some("w")).unwrap();
    component(&module, &resolve, world)
}

fn refused(world: &str, host: &Host, component: &[u8]) -> Error {
    match Policy::load(world, host, component) {
        Ok(_) => panic!("it was taken"),
        Err(Refused::Because(error)) => error,
        Err(Refused::Settings(errors)) => panic!("{errors:?}"),
    }
}

/// The hostile ones of a world, and what is said of them.
fn zoo(world: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let Call { reason, .. } = call_of(world);
    let late = |answer: &str, beside: &str| late(world, answer, beside);
    let tables = "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more)) (i32.const 0)";
    let beyond = "(i32.store (i32.const 64) (i32.const 65536)) (i32.store (i32.const 68) (i32.const 0x7fffffff))";
    let two = "(i32.store (i32.const 64) (i32.const 256)) (i32.store (i32.const 68) (i32.const 2))";
    let no_text = format!(
        "(i32.store (i32.const 64) (i32.const 256)) (i32.store (i32.const 68) (i32.const 1))
        (i32.store offset={reason} (i32.const 256) (i32.const 300))
        (i32.store offset={} (i32.const 256) (i32.const 1))
        (i32.store8 (i32.const 300) (i32.const 0xff))",
        reason + 4
    );
    let with = |text: &str| format!("{text} (i32.const 64)");
    // An optional time, and behind it a reason without letters.
    let no_time = "(i32.store (i32.const 64) (i32.const 256)) (i32.store (i32.const 68) (i32.const 1))
        (i32.store8 (i32.const 256) (i32.const 1)) (i64.store (i32.const 264) (i64.const 0x7fffffffffffffff))";
    let of_this_world = (world == "scheduler").then(|| {
        ("a time that there is not", late(&with(no_time), ""), "it answered with the time 9223372036854775807")
    });
    let of_every_world = [
        ("an infinite loop", late(ENDLESS, ""), "did not answer within"),
        ("a memory bomb", late(GROW, ""), "growing memory"),
        ("a table bomb", late(tables, "(table $t 1 funcref)"), "growing table"),
        ("a handle bomb", handle_bomb(world), "store handle limit exceeded"),
        ("a trap", late("unreachable", ""), "it trapped"),
        ("deep recursion", late("(call $deeper (local.get 0))", DEEPER), "nest too deep"),
        ("a gigantic answer", late("(call $gigantic)", &gigantic(world)), "fuel"),
        ("an answer beyond its memory", late(&with(beyond), ""), "out of bounds"),
        ("more answers than questions", late(&with(two), ""), "1 questions and gave 2 answers"),
        ("an answer that is no text", late(&with(&no_text), ""), "utf-8"),
    ];
    of_every_world.into_iter().chain(of_this_world).collect()
}

const ENDLESS: &str = "(loop $for_ever (br $for_ever)) (i32.const 0)";

const GROW: &str = "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) (i32.const 0)";

const DEEPER: &str = "(func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))";

/// A list of a thousand answers, each with the same reason of 120 KiB: little memory there, much here.
fn gigantic(world: &str) -> String {
    let Call { size, reason, .. } = call_of(world);
    format!(
        "(func $gigantic (result i32) (local $n i32) (local $at i32)
            (drop (memory.grow (i32.const 2)))
            (loop $more
                (local.set $at (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const {size}))))
                (i32.store offset={reason} (local.get $at) (i32.const 131072))
                (i32.store offset={} (local.get $at) (i32.const 122880))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
            (i32.store (i32.const 64) (i32.const 65536))
            (i32.store (i32.const 68) (i32.const 1000))
            (i32.const 64))",
        reason + 4
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_contained_while_others_are_answered() {
    let host = host();
    let (_, labels) = remora_plugins::builtins().find(|(name, _)| *name == "labels").unwrap();
    let good = SelectPolicy::load(&host, labels, r#"{"names": ["db-*"]}"#).unwrap();
    for world in WORLDS {
        for (what, component, said) in zoo(world) {
            let name = format!("{world}: {what}");
            let hostile = Policy::load(world, &host, &component).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let attacked = tokio::spawn(async move { hostile.ask("victim-1").await });
            // While it is at work, and after it.
            for _ in 0..2 {
                let answers = good.select(&[vm("db-1"), vm("web-1")]).await.unwrap();
                assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false], "{name}");
            }
            let error = timeout(FOR_EVER, attacked).await.expect(&name).unwrap().expect_err(&name);
            assert!(error.chain().contains(said), "{name}: {}", error.chain());
        }
    }
}

#[tokio::test]
async fn after_a_fault_the_same_policy_answers_again() {
    let host = host();
    for world in WORLDS {
        let policy = Policy::load(world, &host, &late(world, "unreachable", "")).unwrap_or_else(|e| panic!("{e:?}"));
        for _ in 0..3 {
            policy.ask("victim-1").await.expect_err(world);
            assert_eq!(policy.ask("canary").await.expect(world), 1);
        }
    }
}

#[test]
fn one_that_misbehaves_at_once_is_not_taken() {
    let (host, fine) = (host(), "(i32.const 0)");
    for world in WORLDS {
        for (what, component, said) in [
            ("`configure` eats memory", policy(world, GROW, fine, ""), "growing memory"),
            ("`configure` nests", policy(world, "(call $deeper (local.get 0))", fine, DEEPER), "nest too deep"),
            ("it answers nothing", policy(world, fine, fine, ""), "1 questions and gave 0 answers"),
        ] {
            let error = refused(world, &host, &component);
            assert!(error.chain().contains(said), "{world}: {what}: {}", error.chain());
        }
    }
}

/// In one world only: each takes a second of a processor, and what ends them is the same in every world.
#[test]
fn one_that_never_begins_is_not_taken() {
    let (host, fine) = (host(), "(i32.const 0)");
    for (what, component) in [
        ("`configure` loops", selector(ENDLESS, fine, "")),
        ("it loops while it starts", selector(fine, fine, "(func $s (loop $l (br $l))) (start $s)")),
        ("it loops when it is asked first", selector(fine, ENDLESS, "")),
    ] {
        let error = refused("selector", &host, &component);
        assert!(error.chain().contains("did not answer"), "{what}: {}", error.chain());
    }
}

#[test]
fn a_memory_larger_than_allowed_from_the_start_is_not_taken() {
    let (resolve, world) = world("selector");
    let module = wat::parse_str(
        r#"(module (memory (export "memory") 2048)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "remora:policy/select@0.1.0#configure") (param i32 i32) (result i32) (i32.const 0))
            (func (export "remora:policy/select@0.1.0#select") (param i32 i32) (result i32) (i32.const 0)))"#,
    );
    let error = refused("selector", &host(), &component(&module.unwrap(), &resolve, world));
    assert!(error.chain().contains("memory"), "{}", error.chain());
}

/// Each function of each world traps: all of them, `cabi_realloc` first; then one of them alone, which is reached.
#[test]
fn a_trap_in_every_export_is_contained() {
    let host = host();
    let fine = "(i32.const 0)";
    for name in WORLDS {
        let (resolve, world) = world(name);
        let module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
        let call = call_of(name).name;
        for (component, trapped) in [
            (component(&module, &resolve, world), "configure"),
            (policy(name, "unreachable", fine, ""), "configure"),
            (policy(name, fine, "unreachable", ""), call),
        ] {
            let refused = Policy::load(name, &host, &component).err();
            let Some(Refused::Because(error)) = refused else { panic!("{name}: {refused:?}") };
            let told = error.chain();
            assert!(told.contains("it trapped") && told.contains(&format!("`{trapped}`")), "{name}, {trapped}: {told}");
        }
    }
}
