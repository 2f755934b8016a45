//! What policies of access decide together, and what is logged of it.

use std::fs;
use std::sync::Arc;

use remora_plugins::set::Generation;
use serde_json::{Value, json};

use super::{ACCESS, code, errors, next, now, request};
use crate::components::host;
use crate::lines::{Lines, another};

#[test]
fn deny_overrides_shadow_is_not_enforced_and_silence_denies() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let none = next(&Generation::default(), &host, folder.path(), now());
    assert_eq!(code(&none, "root", "/root/etc/passwd", now()), (false, "nothing-allows".into()));
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let generation = next(&none, &host, folder.path(), now());
    assert_eq!(errors(&generation), [""; 0]);
    assert_eq!(code(&generation, "root", "/root/etc/passwd", now()), (true, "owner".into()));
    assert_eq!(code(&generation, "root", "/root/srv/hr/pay", now()), (false, "path-denied".into()));
    assert_eq!(code(&generation, "eve", "/root/etc/passwd", now()), (false, "nothing-allows".into()));
    // What a rule would not know is denied by the host.
    for unclear in ["", "x", "/srv//hr/pay", "/srv/./hr/pay", "/srv/x/../hr/pay", "/srv/hr/", "/srv/hr\0", "//", "/.."]
    {
        assert_eq!(code(&generation, "root", unclear, now()), (false, "unclear-path".into()), "{unclear:?}");
    }
    for clear in ["/", "/...", "/.x", "/a\\..\\b"] {
        assert_eq!(code(&generation, "root", clear, now()), (true, "owner".into()), "{clear:?}");
    }
    // What was said is on record, the shadow's word too.
    let outcome = generation.authorize(&[request("root", "/root/etc/passwd")], now()).remove(0);
    let modes: Vec<_> = outcome.said.iter().map(|said| (said.module.as_str(), said.code.as_str())).collect();
    assert_eq!(modes, [("builtin:owners", "owner"), ("builtin:paths", "no-rule"), ("builtin:paths", "path-denied")]);
    assert_eq!(outcome.generation, 2);
}

/// Whoever has to say later why somebody read a file, or did not, has this line.
#[test]
fn a_decision_is_logged_with_what_each_policy_said_by_which_module_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let generation = next(&Generation::default(), &host(), folder.path(), now());
    let lines = Lines::default();
    let _another = another();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let outcomes = tracing::subscriber::with_default(subscriber, || {
        let requests = ["/root/etc/passwd", "/root/srv/hr/pay"].map(|path| request("root", path));
        generation.authorize(&requests, now())
    });
    let text = lines.text();
    let logged: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(logged.len(), 2, "{text}");
    let (policy, _) = generation.accesses().next().unwrap();
    let wanted = [
        (outcomes[0].clone(), true, "owner", "/root/etc/passwd", ["allow", "abstain", "deny"]),
        (outcomes[1].clone(), false, "path-denied", "/root/srv/hr/pay", ["allow", "deny", "deny"]),
    ];
    for (line, (outcome, allowed, code, path, effects)) in logged.iter().zip(wanted) {
        let (fields, target) = (&line["fields"], &line["target"]);
        assert_eq!((target, &fields["message"]), (&json!("remora::decision"), &json!("decision")));
        let told = ["allowed", "code", "generation", "user", "action", "vm", "point", "path"].map(|name| &fields[name]);
        let request = [json!("root"), json!("read"), json!("vm"), json!("0123456789abcdef-1"), json!(path)];
        let wanted: Vec<_> = [json!(allowed), json!(code), json!(1)].into_iter().chain(request).collect();
        assert_eq!(told.map(Clone::clone).to_vec(), wanted, "{line}");
        let said: Vec<Value> = serde_json::from_str(fields["said"].as_str().unwrap()).unwrap();
        assert_eq!(said.len(), 3, "{line}");
        for (n, said) in said.iter().enumerate() {
            let binding = &policy.bindings[n];
            let digests = [binding.policy.digest(), binding.policy.settings_hash()].map(|digest| digest.to_string());
            assert_eq!([&said["digest"], &said["settings"]], digests.each_ref().map(String::as_str), "{said}");
            assert_eq!((&said["policy"], &said["module"]), (&json!("files"), &json!(binding.module)), "{said}");
            assert_eq!(said["interface"], "remora:policy/authorize@0.2.0", "{said}");
            assert_eq!((&said["effect"], &said["code"]), (&json!(effects[n]), &json!(outcome.said[n].code)), "{said}");
            assert_eq!(said["mode"], if n == 2 { "shadow" } else { "enforce" }, "{said}");
            let reason = said["reason"].as_str().unwrap();
            assert!(!reason.is_empty() && reason == outcome.said[n].reason, "{said}");
        }
    }
}

/// Whoever asks during a reload gets one generation's answer, and no request is dropped.
#[test]
fn reloads_under_load_mix_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let access = |user: &str| {
        let text = ACCESS.replace("[root]", &format!("[{user}]"));
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let deny = format!(
            "kind: AccessPolicy\nname: b\nauthorize: [{{module: builtin:paths, settings: {{denyPaths: ['/of/{}/**']}}}}]\n",
            if user == "even" { "odd" } else { "even" }
        );
        fs::write(folder.path().join("b.yaml"), deny).unwrap();
    };
    access("even");
    let current = Arc::new(std::sync::RwLock::new(Arc::new(next(&Generation::default(), &host, folder.path(), now()))));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asking = std::thread::spawn({
        let (current, done) = (Arc::clone(&current), Arc::clone(&done));
        move || {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || asked < 100 {
                let generation = Arc::clone(&current.read().unwrap());
                // Each generation allows its own user everything but the other's folder: a mixture would allow or deny both.
                let requests = ["even", "odd"].map(|user| request(user, &format!("/of/{user}/x")));
                let allowed: Vec<_> = generation.authorize(&requests, now()).iter().map(|o| o.allowed).collect();
                let even = generation.number % 2 == 1;
                assert_eq!(allowed, [even, !even], "generation {}", generation.number);
                asked += 1;
            }
            asked
        }
    });
    for n in 2..40 {
        access(if n % 2 == 1 { "even" } else { "odd" });
        let before = Arc::clone(&current.read().unwrap());
        let generation = next(&before, &host, folder.path(), now());
        assert_eq!(errors(&generation), [""; 0]);
        *current.write().unwrap() = Arc::new(generation);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(asking.join().unwrap() >= 100);
}
