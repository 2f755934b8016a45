//! Other restores to the same claims: one is first, and the others end. Each is told by itself, of the same facts.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::conditions::holds;
use crate::controller::observe::Reader;
use crate::controller::plan::has_finalizer;
use crate::resources::{RestoreRun, Run};

/// The other restores of the namespace.
pub(super) async fn others(reader: &Reader<'_>, run: &RestoreRun) -> Result<Vec<RestoreRun>, kube::Error> {
    let all = reader.api::<RestoreRun>().list(&ListParams::default()).await?.items;
    Ok(all.into_iter().filter(|other| other.metadata.uid != run.metadata.uid).collect())
}

/// A claim that another restore writes first, and the name of that.
pub(super) fn first(run: &RestoreRun, others: &[RestoreRun]) -> Option<(String, String)> {
    let mut before = others.iter().filter(|other| goes_on(other) && rank(other) < rank(run));
    before.find_map(|other| Some((shared(run, other)?.to_owned(), other.name_any())))
}

/// Whether another restore has ended or does so, for itself or because this one is first: what it has made goes.
pub(super) fn ends(other: &RestoreRun, run: &RestoreRun) -> bool {
    !goes_on(other) || (rank(run) < rank(other) && shared(run, other).is_some())
}

/// Whether one that ends takes the claims with it that it has had made.
pub(super) fn takes_claims(other: &RestoreRun) -> bool {
    let stay = ["Complete", "Written"].iter().any(|kind| holds(other.conditions(), kind));
    has_finalizer(other) && !stay
}

fn goes_on(run: &RestoreRun) -> bool {
    !run.has_ended() && !run.is_cancelled()
}

/// One that a node has, else the oldest, and of two of one second that of the first name.
fn rank(run: &RestoreRun) -> (bool, Option<Timestamp>, String) {
    (run.node().is_none(), run.creation_timestamp().map(|time| time.0), run.name_any())
}

/// A claim that both name. What is made for a new machine nobody else may have anyway.
fn shared<'a>(run: &'a RestoreRun, other: &RestoreRun) -> Option<&'a str> {
    let mut claims = run.spec.disks.iter().map(|to| to.claim.as_str());
    claims.find(|claim| other.spec.disks.iter().any(|to| to.claim == *claim))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::slice::from_ref;

    use serde_json::{Value, json};

    use super::*;
    use crate::controller::FINALIZER;

    fn restore(name: &str, second: i64, claims: &[&str], status: &Value) -> RestoreRun {
        let disks: Vec<_> = claims.iter().map(|claim| json!({"disk": claim, "claim": claim})).collect();
        let created = Timestamp::from_second(second).unwrap().to_string();
        serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun",
            "metadata": {"name": name, "uid": name, "creationTimestamp": created, "finalizers": [FINALIZER]},
            "spec": {"point": "0011223344556677-1", "repository": {"name": "r"}, "disks": disks}, "status": status,
        }))
        .unwrap()
    }

    fn ended(kind: &str) -> Value {
        let since = "2026-01-01T00:00:00Z";
        json!({"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": since}]})
    }

    #[test]
    fn of_two_to_one_claim_one_is_first_and_both_know_which() {
        let at = |name: &str, second: i64, status: Value| restore(name, second, &["root", "data"], &status);
        let of_a_node = json!({"node": "one"});
        for (first_one, second_one) in [
            (at("b", 1, json!({})), at("a", 2, json!({}))),
            (at("a", 1, json!({})), at("b", 1, json!({}))),
            // It writes already.
            (at("b", 2, of_a_node.clone()), at("a", 1, json!({}))),
            (at("a", 1, of_a_node.clone()), at("b", 1, of_a_node)),
        ] {
            assert_eq!(first(&first_one, from_ref(&second_one)), None);
            let told = first(&second_one, from_ref(&first_one));
            assert_eq!(told, Some(("root".to_owned(), first_one.name_any())));
            assert!(ends(&second_one, &first_one) && !ends(&first_one, &second_one));
        }
    }

    #[test]
    fn who_ends_or_has_other_claims_is_in_nobody_s_way() {
        let run = restore("run", 5, &["root"], &json!({}));
        let other = restore("other", 1, &["data"], &json!({}));
        assert_eq!(first(&run, from_ref(&other)), None);
        assert!(!ends(&other, &run));
        let mut cancelled = restore("cancelled", 1, &["root"], &json!({"node": "one"}));
        cancelled.spec.cancel = true;
        for over in [restore("failed", 1, &["root"], &ended("Failed")), cancelled] {
            assert_eq!(first(&run, from_ref(&over)), None);
            assert!(ends(&over, &run) && takes_claims(&over), "{over:?}");
        }
        for kind in ["Complete", "Written"] {
            assert!(!takes_claims(&restore("done", 1, &["root"], &ended(kind))), "{kind}");
        }
        let mut gone = restore("failed", 1, &["root"], &ended("Failed"));
        gone.metadata.finalizers = None;
        assert!(!takes_claims(&gone), "nothing of it is left");
    }
}
