//! Whom they let read what.

use remora_core::policy::{Access, Action, Approval, Authorize, Effect, Subject, VmFacts};
use remora_plugins::AuthorizePolicy;

use super::{builtin, fields, host, time, vm};

pub(crate) fn access(user: &str, groups: &[&str], path: &str, vm: VmFacts) -> Access {
    Access {
        subject: Subject {
            user: user.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            grants: Vec::new(),
        },
        action: Action::Read,
        vm,
        point: "0123456789abcdef-1".into(),
        point_time: time("2026-01-01T00:00:00Z"),
        path: path.as_bytes().to_vec(),
        now: time("2026-01-02T00:00:00Z"),
        approvals: Vec::new(),
    }
}

pub(crate) fn decide(policy: &AuthorizePolicy, request: &Access) -> (Effect, String) {
    let warm = policy.authorize(std::slice::from_ref(request)).unwrap().remove(0);
    // A new instance says the same as one that was used before.
    let fresh = policy.authorize_fresh(std::slice::from_ref(request)).unwrap().remove(0);
    assert_eq!(fresh, warm);
    (warm.effect, warm.code)
}

#[test]
fn owners_are_those_whom_labels_grants_or_settings_name() {
    let policy = AuthorizePolicy::load(&host(), builtin("owners"), r#"{"groups": ["backup-admins"]}"#).unwrap();
    let owned = || vm("db", &[("remora.dev/owner", "alice, bob"), ("remora.dev/owner-group", "dba")]);
    let granted = {
        let mut access = access("carol", &[], "/x", owned());
        access.subject.grants = vec!["get virtualmachines".into(), "update virtualmachines".into()];
        access
    };
    for (request, allowed) in [
        (access("alice", &[], "/x", owned()), true),
        (access("bob", &[], "/x", owned()), true),
        (access("ali", &[], "/x", owned()), false),
        (access("carol", &["dba"], "/x", owned()), true),
        (access("carol", &["web"], "/x", owned()), false),
        (access("carol", &["backup-admins"], "/x", owned()), true),
        (granted, true),
        (access("", &[""], "/x", vm("db", &[("remora.dev/owner", ""), ("remora.dev/owner-group", "")])), false),
        (access("alice", &[], "/x", vm("db", &[])), false),
    ] {
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        assert_eq!(decide(&policy, &request).0, expected, "{:?}", request.subject);
    }
}

#[test]
fn owners_of_a_namespace_own_its_vms_and_no_others() {
    let host = host();
    let load = |settings| AuthorizePolicy::load(&host, builtin("owners"), settings);
    let of_shop = r#"{"namespaces": {"shop": {"users": ["alice"], "groups": ["shop-admins"]}, "lab": {"users": ["bob"]}},
        "users": ["root"]}"#;
    let policy = load(of_shop).unwrap();
    let within = |namespace: &str| VmFacts { namespace: namespace.into(), ..vm("db", &[]) };
    for (user, groups, namespace, allowed) in [
        ("alice", &[][..], "shop", true),
        ("carol", &["web", "shop-admins"], "shop", true),
        ("root", &[], "shop", true),
        ("bob", &[], "lab", true),
        ("bob", &[], "shop", false),
        ("alice", &[], "lab", false),
        ("carol", &["shop-admins"], "lab", false),
        ("carol", &["alice"], "shop", false),
        ("", &["shop-admins"], "shop", false),
        ("alice", &[], "shopping", false),
        ("alice", &[], "", false),
    ] {
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        let decided = decide(&policy, &access(user, groups, "/x", within(namespace)));
        assert_eq!(decided.0, expected, "{user:?} {groups:?} in {namespace:?}");
    }
    // A plain host's VM whose name looks like one of the namespace's is not.
    assert_eq!(decide(&policy, &access("alice", &[], "/x", vm("shop/db", &[]))).0, Effect::Abstain);

    for (settings, field) in [
        (r#"{"namespaces": {"": {"users": ["alice"]}}}"#, "/namespaces/"),
        (r#"{"namespaces": {"shop-*": {"users": ["alice"]}}}"#, "/namespaces/shop-*"),
        (r#"{"namespaces": {"shop/~db": {"users": ["alice"]}}}"#, "/namespaces/shop~1~0db"),
        (r#"{"namespaces": {"shop": {}}}"#, "/namespaces/shop"),
        (r#"{"namespaces": {"shop": {"users": [], "groups": []}}}"#, "/namespaces/shop"),
        (r#"{"namespaces": {"shop": {"user": ["alice"]}}}"#, "/namespaces/shop/user"),
    ] {
        assert_eq!(fields(load(settings)), [field], "{settings}");
    }
}

/// Rights of Kubernetes alone can make an owner: those that the settings name in the place of `update virtualmachines`.
#[test]
fn owners_by_what_the_cluster_lets_them_do_are_those_with_a_grant_of_the_settings() {
    let policy = AuthorizePolicy::load(&host(), builtin("owners"), r#"{"grants": ["get virtualmachines"]}"#).unwrap();
    for (grants, allowed) in [
        (&["get virtualmachines"][..], true),
        (&["list pods", "get virtualmachines"], true),
        (&["update virtualmachines"], false),
        (&["get virtualmachines/status"], false),
        (&[], false),
    ] {
        let mut request = access("alice", &[], "/x", VmFacts { namespace: "shop".into(), ..vm("db", &[]) });
        request.subject.grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
        let expected = if allowed { Effect::Allow } else { Effect::Abstain };
        assert_eq!(decide(&policy, &request).0, expected, "{grants:?}");
    }
}

#[test]
fn denied_paths_are_denied_wherever_they_are_served() {
    let settings = r#"{"denyPaths": ["/srv/hr/**", "/**/*.key"],
        "rules": [{"groups": ["web"], "allowPaths": ["/root/var/www/**"]}, {"users": ["eve"], "denyPaths": ["/**"]}]}"#;
    let host = host();
    let policy = AuthorizePolicy::load(&host, builtin("paths"), settings).unwrap();
    let vm = || vm("vm", &[]);
    for (user, groups, path, expected) in [
        ("a", &[][..], "/root/srv/hr/pay.ods", Effect::Deny),
        ("a", &[], "/vda/2/srv/hr/pay.ods", Effect::Deny),
        ("a", &[], "/srv/hr", Effect::Deny),
        ("a", &[], "/root/srv/hr", Effect::Deny),
        ("a", &[], "/root/srv/hrx/pay.ods", Effect::Abstain),
        ("a", &[], "/root/etc/tls/a.key", Effect::Deny),
        ("a", &["web"], "/root/var/www/index.html", Effect::Allow),
        ("a", &["web"], "/root/var/www/site.key", Effect::Deny),
        ("a", &["db"], "/root/var/www/index.html", Effect::Abstain),
        // What is allowed stands for itself: not for the same name somewhere below.
        ("a", &["web"], "/home/a/root/var/www/x", Effect::Abstain),
        ("eve", &["web"], "/root/var/www/index.html", Effect::Deny),
    ] {
        assert_eq!(decide(&policy, &access(user, groups, path, vm())).0, expected, "{user} {path}");
    }
    let mut request = access("a", &[], "", vm());
    request.path = b"/root/srv/hr/\xff\xfe".to_vec();
    assert_eq!(decide(&policy, &request).0, Effect::Deny, "a name that is no text");
    let load = |settings| AuthorizePolicy::load(&host, builtin("paths"), settings);
    assert_eq!(fields(load("{}")), [""]);
    assert_eq!(
        fields(load(r#"{"denyPaths": ["srv"], "rules": [{"allowPaths": ["/{"]}]}"#)),
        ["/denyPaths/0", "/rules/0/allowPaths/0", "/rules/0"]
    );
}

/// Whoever writes one of these thinks that it covers more than it does.
#[test]
fn globs_that_would_cover_less_than_they_seem_to_are_told() {
    let host = host();
    let load = |glob: &str| {
        let settings = serde_json::json!({"denyPaths": [glob]}).to_string();
        AuthorizePolicy::load(&host, builtin("paths"), &settings)
    };
    for glob in [
        "/srv/hr**",
        "/srv/**.key",
        "/srv/**hr/**",
        "/srv/***",
        "/a,**",
        "/{a,b}**",
        "/srv/hr/",
        "/srv//hr",
        "/srv/./hr",
        "/srv/../hr/**",
    ] {
        assert_eq!(fields(load(glob)), ["/denyPaths/0"], "{glob}");
    }
    for glob in ["/", "/**", "/**/*.key", "/srv/**/hr/**", "/srv/{hr/**,**/pay}", "/a/\\**", "/...", "/.x/..y"] {
        load(glob).unwrap_or_else(|error| panic!("{glob}: {error:?}"));
    }
}

/// What is known of a glob beforehand never changes what it covers: the same as of asking the matcher everywhere.
#[test]
fn globs_cover_what_the_matcher_says() {
    let globs = [
        "/a/**",
        "/**",
        "/a",
        "/*",
        "/**/a",
        "/**/*.key",
        "/a/**/b",
        "/a/*/b",
        "/{a,b}/**",
        "/a/{x.key,b/**}",
        "/[ab]/x*",
        "/a?",
        "/a/b.key",
        "/\\a/b",
        "/a/**/b.key",
        "/**/a/**",
        "/b/*.k{ey,ex}",
        "/{a/**,b}/x.key",
        "/**/[!a]",
        "/a]b",
    ];
    let names = ["a", "b", "aa", "x.key", "b.key", "a]b"];
    let mut paths = vec![String::new(), "/".into()];
    for a in names {
        paths.push(format!("/{a}"));
        for b in names {
            paths.push(format!("/{a}/{b}"));
            paths.extend(names.map(|c| format!("/{a}/{b}/{c}")));
        }
    }
    let requests: Vec<_> = paths.iter().map(|path| access("u", &[], path, vm("vm", &[]))).collect();
    let covers = |glob: &str, path: &str| {
        fast_glob::glob_match(glob, path)
            || glob.strip_suffix("/**").is_some_and(|folder| fast_glob::glob_match(folder, path))
    };
    let anywhere =
        |glob: &str, path: &str| covers(glob, path) || path.match_indices('/').any(|(n, _)| covers(glob, &path[n..]));
    let host = host();
    let mut covered = 0;
    for glob in globs {
        for (field, expected, effect) in [
            ("denyPaths", &anywhere as &dyn Fn(&str, &str) -> bool, Effect::Deny),
            ("allowPaths", &covers as &dyn Fn(&str, &str) -> bool, Effect::Allow),
        ] {
            let settings = serde_json::json!({ field: [glob] }).to_string();
            let policy = AuthorizePolicy::load(&host, builtin("paths"), &settings).unwrap();
            for (path, decision) in paths.iter().zip(policy.authorize(&requests).unwrap()) {
                assert_eq!(decision.effect == effect, expected(glob, path), "{field} {glob} {path:?}");
                covered += usize::from(decision.effect == effect);
            }
        }
    }
    assert!(covered > 1_000, "{covered}");
}

#[test]
fn four_eyes_wants_the_consent_of_somebody_else() {
    let settings = r#"{"paths": ["/srv/hr/**"], "approvers": ["hr-leads"]}"#;
    let policy = AuthorizePolicy::load(&host(), builtin("four-eyes"), settings).unwrap();
    let approved = |by: &str, group: &str, granted: &str, expires: &str| {
        let mut request = access("alice", &["hr-leads"], "/root/srv/hr/pay.ods", vm("vm", &[]));
        request.approvals = vec![Approval {
            user: by.into(),
            groups: vec![group.into()],
            granted: time(granted),
            expires: time(expires),
        }];
        request
    };
    let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
    for (request, code) in [
        (access("alice", &["hr-leads"], "/root/srv/hr/pay.ods", vm("vm", &[])), "approval-needed"),
        (access("alice", &[], "/root/etc/passwd", vm("vm", &[])), "not-sensitive"),
        (approved("bob", "hr-leads", before, after), "approved"),
        (approved("alice", "hr-leads", before, after), "approval-needed"),
        (approved("bob", "friends", before, after), "approval-needed"),
        (approved("", "hr-leads", before, after), "approval-needed"),
        (approved("bob", "hr-leads", before, "2026-01-02T00:00:00Z"), "approval-needed"),
        (approved("bob", "hr-leads", after, after), "approval-needed"),
    ] {
        assert_eq!(decide(&policy, &request).1, code, "{:?}", request.approvals);
    }
    let mut listed = access("alice", &[], "/root/srv/hr", vm("vm", &[]));
    listed.action = Action::List;
    assert_eq!(decide(&policy, &listed).1, "not-sensitive", "only reading needs consent, unless actions says more");
}
