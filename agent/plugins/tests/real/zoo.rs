//! Hostile components: each costs its own call, and nothing else.

use remora_core::policy::{Select, VmFacts};
use remora_core::{Error, VmName};
use remora_plugins::{AuthorizePolicy, Host, Refused, RetentionPolicy, SchedulePolicy, SelectPolicy};
use tokio::time::timeout;
use wit_component::dummy_module;
use wit_parser::ManglingAndAbi;

use super::components::{FOR_EVER, MEMORY, call_of, component, host, policy, selector, world};

fn vm(name: &str) -> VmFacts {
    VmFacts::named(VmName::new(name).unwrap())
}

/// Answers the first, harmless question of a load with `selected: false`, and then does what is given.
fn late(select: &str, beside: &str) -> Vec<u8> {
    selector("(i32.const 0)", &second(select), beside)
}

/// What is given, from the second question on.
fn second(select: &str) -> String {
    // The name of a VM is its first field: the length of the canary's is 6.
    format!(
        "(if (i32.eq (i32.load offset=4 (local.get 0)) (i32.const 6)) (then
            (i32.store (i32.const 64) (i32.const 128))
            (i32.store (i32.const 68) (i32.const 1))
            (return (i32.const 64))))
         {select}"
    )
}

/// A selector with a resource of its own, of which `$new` makes a handle: the second question makes 60,000. That is less than
/// wasmtime lets any component have that nobody limits further.
fn handle_bomb() -> Vec<u8> {
    let many = second(
        "(loop $more
            (drop (call $new (i32.const 1)))
            (local.set $made (i32.add (local.get $made) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $made) (i32.const 60000))))
         (i32.const 0)",
    );
    let text = format!(
        r#"(module
            (import "[export]acme:other/thing@1.0.0" "[resource-new]r" (func $new (param i32) (result i32)))
            {MEMORY}
            (func (export "remora:policy/select@0.1.0#configure") (param i32 i32) (result i32) (i32.const 0))
            (func (export "remora:policy/select@0.1.0#select") (param i32 i32) (result i32) (local $made i32) {many}))"#
    );
    let (mut resolve, _) = world("selector");
    let world = "package acme:other@1.0.0; interface thing { resource r; }
                 world w { export thing; export remora:policy/select@0.1.0; }";
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("w")).unwrap();
    component(&wat::parse_str(text).unwrap(), &resolve, world)
}

fn refused(host: &Host, component: &[u8]) -> Error {
    match SelectPolicy::load(host, component, "{}") {
        Ok(_) => panic!("it was taken"),
        Err(Refused::Because(error)) => error,
        Err(Refused::Settings(errors)) => panic!("{errors:?}"),
    }
}

/// The hostile ones, and what is said of them.
fn zoo() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let answer = "(i32.const 64)";
    let grow = "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) (i32.const 0)";
    let tables = "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $more)) (i32.const 0)";
    let beyond = "(i32.store (i32.const 64) (i32.const 65536)) (i32.store (i32.const 68) (i32.const 0x7fffffff))";
    let two = "(i32.store (i32.const 64) (i32.const 256)) (i32.store (i32.const 68) (i32.const 2))";
    let no_text = "(i32.store (i32.const 64) (i32.const 256)) (i32.store (i32.const 68) (i32.const 1))
        (i32.store (i32.const 260) (i32.const 300)) (i32.store (i32.const 264) (i32.const 1))
        (i32.store8 (i32.const 300) (i32.const 0xff))";
    let with = |text: &str| format!("{text} {answer}");
    vec![
        (
            "an infinite loop",
            late("(loop $for_ever (br $for_ever)) (i32.const 0)", ""),
            "did not answer within 1000 ms",
        ),
        ("a memory bomb", late(grow, ""), "growing memory"),
        ("a table bomb", late(tables, "(table $t 1 funcref)"), "growing table"),
        ("a handle bomb", handle_bomb(), "store handle limit exceeded"),
        ("a trap", late("unreachable", ""), "it trapped"),
        ("deep recursion", late("(call $deeper (local.get 0))", DEEPER), "nest too deep"),
        ("a gigantic answer", late("(call $gigantic)", GIGANTIC), "fuel"),
        ("an answer beyond its memory", late(&with(beyond), ""), "out of bounds"),
        ("more answers than questions", late(&with(two), ""), "1 questions and gave 2 answers"),
        ("an answer that is no text", late(&with(no_text), ""), "utf-8"),
    ]
}

const DEEPER: &str = "(func $deeper (param i32) (result i32) (i32.add (i32.const 1) (call $deeper (local.get 0))))";

/// A list of a thousand verdicts, each with the same reason of 120 KiB: little memory there, much here.
const GIGANTIC: &str = "(func $gigantic (result i32) (local $n i32) (local $at i32)
    (drop (memory.grow (i32.const 2)))
    (loop $more
        (local.set $at (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 12))))
        (i32.store offset=4 (local.get $at) (i32.const 131072))
        (i32.store offset=8 (local.get $at) (i32.const 122880))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
    (i32.store (i32.const 64) (i32.const 65536))
    (i32.store (i32.const 68) (i32.const 1000))
    (i32.const 64))";

#[tokio::test(flavor = "multi_thread")]
async fn each_is_contained_while_others_are_answered() {
    let host = host();
    let (_, labels) = remora_plugins::builtins().find(|(name, _)| *name == "labels").unwrap();
    let good = SelectPolicy::load(&host, labels, r#"{"names": ["db-*"]}"#).unwrap();
    for (name, component, said) in zoo() {
        let hostile = SelectPolicy::load(&host, &component, "{}").unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let attacked = tokio::spawn(async move { hostile.select(&[vm("victim-1")]).await });
        // While it is at work, and after it.
        for _ in 0..2 {
            let answers = good.select(&[vm("db-1"), vm("web-1")]).await.unwrap();
            assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false], "{name}");
        }
        let error = timeout(FOR_EVER, attacked).await.expect(name).unwrap().expect_err(name);
        assert!(error.chain().contains(said), "{name}: {}", error.chain());
    }
}

#[tokio::test]
async fn after_a_fault_the_same_policy_answers_again() {
    let host = host();
    let policy = SelectPolicy::load(&host, &late("unreachable", ""), "{}").unwrap();
    for _ in 0..3 {
        policy.select(&[vm("victim-1")]).await.unwrap_err();
        assert_eq!(policy.select(&[vm("canary")]).await.unwrap().len(), 1);
    }
}

#[test]
fn one_that_misbehaves_at_once_is_not_taken() {
    let host = host();
    let table = [
        ("configure loops", selector("(loop $l (br $l)) (i32.const 0)", "(i32.const 0)", ""), "did not answer"),
        (
            "it loops while it starts",
            selector("(i32.const 0)", "(i32.const 0)", "(func $s (loop $l (br $l))) (start $s)"),
            "did not answer",
        ),
        ("it answers nothing", selector("(i32.const 0)", "(i32.const 0)", ""), "1 questions and gave 0 answers"),
    ];
    for (name, component, said) in table {
        let error = refused(&host, &component);
        assert!(error.chain().contains(said), "{name}: {}", error.chain());
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
    let error = refused(&host(), &component(&module.unwrap(), &resolve, world));
    assert!(error.chain().contains("memory"), "{}", error.chain());
}

/// Each function of each world traps: all of them, `cabi_realloc` first; then one of them alone, which is reached.
#[test]
fn a_trap_in_every_export_is_contained() {
    let host = host();
    let fine = "(i32.const 0)";
    for name in ["selector", "scheduler", "keeper", "authorizer", "authorizer@0.2.0"] {
        let (resolve, world) = world(name);
        let module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
        let (_, call, _) = call_of(name);
        for (component, trapped) in [
            (component(&module, &resolve, world), "configure"),
            (policy(name, "unreachable", fine, ""), "configure"),
            (policy(name, fine, "unreachable", ""), call),
        ] {
            let refused = match name {
                "selector" => SelectPolicy::load(&host, &component, "{}").err(),
                "scheduler" => SchedulePolicy::load(&host, &component, "{}").err(),
                "keeper" => RetentionPolicy::load(&host, &component, "{}").err(),
                _ => AuthorizePolicy::load(&host, &component, "{}").err(),
            };
            let Some(Refused::Because(error)) = refused else { panic!("{name}: {refused:?}") };
            let told = error.chain();
            assert!(told.contains("it trapped") && told.contains(&format!("`{trapped}`")), "{name}, {trapped}: {told}");
        }
    }
}
