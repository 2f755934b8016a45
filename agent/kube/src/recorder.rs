//! Events on objects, for people to see.
//!
//! As the recorder of `kube` 5.0, but for two things. What has another note is another event, within bounds: that one counts it
//! as the first, whose note no longer says what is. And an object's name may be as long as names may be: that one makes a name
//! of it for the event that is longer, which no API server takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event as Stored, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Reporter};
use kube::{Api, Client};
use serde_json::json;

/// So long after it was told last an event that happens again is counted, and not told anew.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(6);

/// So many events of one object are told that differ in their notes alone, as many as by Kubernetes' own programs; those that
/// follow are counted. A note may be another each time, such as one that quotes what a store answers.
const NOTES: u32 = 10;

/// How much of an object's name is shown in its event's: a dot and 16 digits follow, and a name has 253 bytes at the most.
const SHOWN: usize = 236;

/// Tells of events.
#[derive(Clone)]
pub(crate) struct Recorder {
    client: Client,
    reporter: Reporter,
    told: Arc<Mutex<HashMap<blake3::Hash, Told>>>,
}

/// The last event of those that differ in their notes alone.
#[derive(Clone)]
struct Told {
    name: String,
    note: Option<String>,
    /// How many notes there were.
    notes: u32,
    count: i32,
    last: Timestamp,
}

impl Recorder {
    pub(crate) fn new(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, told: Arc::default() }
    }

    /// Tells of an event of an object, or that it has happened again.
    pub(crate) async fn publish(&self, event: &Event, of: &ObjectReference) -> Result<(), kube::Error> {
        let (now, what) = (Timestamp::now(), what(event, of));
        let events: Api<Stored> = Api::namespaced(self.client.clone(), of.namespace.as_deref().unwrap_or("default"));
        let before = self.before(&what, now);
        let notes = before.as_ref().map_or(0, |before| before.notes);
        let is_counted = |before: &Told| before.note == event.note || notes >= NOTES;
        let told = if let Some(before) = before.filter(is_counted) {
            let series = EventSeries { count: before.count + 1, last_observed_time: MicroTime(now) };
            let patch = Patch::Merge(json!({"series": series}));
            events.patch(&before.name, &PatchParams::default(), &patch).await?;
            Told { count: series.count, last: now, ..before }
        } else {
            let stored = self.stored(event, of, now);
            events.create(&PostParams::default(), &stored).await?;
            let (name, note) = (stored.metadata.name.unwrap_or_default(), event.note.clone());
            Told { name, note, notes: notes + 1, count: 1, last: now }
        };
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(what, told);
        Ok(())
    }

    /// What was told of the same a moment ago.
    fn before(&self, what: &blake3::Hash, now: Timestamp) -> Option<Told> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, one| now.duration_since(one.last) < REMEMBERED);
        told.get(what).cloned()
    }

    fn stored(&self, event: &Event, of: &ObjectReference, now: Timestamp) -> Stored {
        let Reporter { controller, instance } = &self.reporter;
        Stored {
            metadata: ObjectMeta {
                namespace: of.namespace.clone(),
                name: Some(name(of.name.as_deref().unwrap_or(controller), now)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(word(event.type_).into()),
            action: Some(event.action.clone()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            regarding: Some(of.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(controller.clone()),
            reporting_instance: Some(instance.as_ref().unwrap_or(controller).clone()),
            ..Stored::default()
        }
    }
}

const fn word(type_: EventType) -> &'static str {
    match type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

/// What is the same of events that differ in their notes alone.
fn what(event: &Event, of: &ObjectReference) -> blake3::Hash {
    let Event { type_, reason, action, secondary, .. } = event;
    blake3::hash(json!([of, word(*type_), reason, action, secondary]).to_string().as_bytes())
}

/// The name of an object's event.
fn name(object: &str, now: Timestamp) -> String {
    let shown = &object[..object.floor_char_boundary(SHOWN)];
    // What stands before a dot ends in a letter or a digit.
    let shown = shown.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    format!("{shown}.{:x}", now.as_nanosecond())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use axum::Router;
    use http::{Method, Uri};
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn what_happens_again_is_counted_and_with_another_note_it_is_another_event() {
        let asked: Arc<Mutex<Vec<(Method, String, Value)>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let answer = move |method: Method, uri: Uri, body: String| async move {
            noted.lock().unwrap().push((method, uri.path().to_owned(), serde_json::from_str(&body).unwrap()));
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "any"}}).to_string()
        };
        let server: Router = Router::new().fallback(answer);
        let reporter = Reporter { controller: "remora-controller".into(), instance: Some("pod".into()) };
        let recorder = Recorder::new(Client::new(server, "default"), reporter);
        let of = ObjectReference {
            kind: Some("BackupRun".into()),
            namespace: Some("shop".into()),
            name: Some("run".into()),
            ..ObjectReference::default()
        };
        let others: Vec<_> = (0..12).map(|number| format!("waits for {number}")).collect();
        for note in ["waits for a", "waits for a", "waits for b"].into_iter().chain(others.iter().map(String::as_str)) {
            let (reason, action) = ("WaitingForRun".into(), "Assign".into());
            let event = Event { type_: EventType::Warning, reason, note: Some(note.into()), action, secondary: None };
            recorder.publish(&event, &of).await.unwrap();
        }
        let asked = asked.lock().unwrap().clone();
        let told = |(method, _, sent): &(Method, String, Value)| {
            (method.to_string(), sent["note"].as_str().map(str::to_owned), sent["series"]["count"].as_i64())
        };
        let event = |note: &str| ("POST".to_owned(), Some(note.to_owned()), None);
        let again = |count: i64| ("PATCH".to_owned(), None, Some(count));
        // Ten notes, and no more.
        let mut wanted = vec![event("waits for a"), again(2), event("waits for b")];
        wanted.extend(others[..8].iter().map(|note| event(note)));
        wanted.extend((2..6).map(again));
        assert_eq!(asked.iter().map(told).collect::<Vec<_>>(), wanted);
        let first = &asked[0].2;
        let path = format!("/namespaces/shop/events/{}", first["metadata"]["name"].as_str().unwrap());
        assert!(asked[1].1.ends_with(&path), "{asked:#?}");
        assert_eq!((&first["type"], &first["regarding"]["name"]), (&json!("Warning"), &json!("run")));
    }

    #[test]
    fn an_object_of_whatever_name_has_events() {
        let hyphen_where_it_is_cut = format!("{}-{}", "m".repeat(SHOWN - 1), "n".repeat(9));
        for object in ["web".to_owned(), "m".repeat(253), hyphen_where_it_is_cut] {
            let name = name(&object, Timestamp::now());
            let sound = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
            assert!(name.len() <= 253 && name.split('.').all(sound), "{name}");
        }
    }
}
