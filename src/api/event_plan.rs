//! Pure: which notes become Events. Repetitions raise a count, a flood is cut, and what nobody
//! repeats expires. The numbers are client-go's recorder's (`tools/record/events_cache.go`).

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::object::{Key, Note, Severity};

/// Notes of one source about one object that pass at once.
pub const BURST: f64 = 25.0;
/// Seconds until one more passes.
pub const REFILL_SECONDS: f64 = 300.0;
/// Seconds within which the same note raises a count instead of making a new Event.
pub const REPEAT_SECONDS: i64 = 600;
/// Seconds after its last occurrence that an Event is kept.
pub const KEEP_SECONDS: i64 = 3600;
/// Objects and notes remembered; beyond it the oldest half is forgotten, which only means that a
/// repetition becomes a new Event (client-go's cache has 4,096 too).
const REMEMBERED: usize = 4096;

/// What becomes of a note.
#[derive(Clone, Debug, PartialEq)]
pub enum EventStep {
    Create(Box<Event>),
    /// The Event of that name happened again; `fallback` where it is gone meanwhile.
    Count {
        key: Key,
        count: i32,
        fallback: Box<Event>,
    },
    /// Over the bound of its source and object.
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct About {
    component: &'static str,
    kind: String,
    key: Key,
    uid: String,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug)]
struct Seen {
    key: Key,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

/// What was seen lately.
#[derive(Debug, Default)]
pub struct Correlation {
    buckets: HashMap<About, Bucket>,
    seen: HashMap<(About, &'static str, bool, String), Seen>,
}

impl Correlation {
    /// Decides about one note; `unique` distinguishes Events made at the same time.
    pub fn plan(&mut self, note: &Note, now: Timestamp, unique: &str) -> EventStep {
        let about = about(note);
        if !self.admits(&about, now) {
            return EventStep::Drop;
        }
        let warning = note.severity == Severity::Warning;
        let id = (about, note.reason, warning, note.message.clone());
        if let Some(seen) = self.seen.get_mut(&id)
            && now.duration_since(seen.last) < SignedDuration::from_secs(REPEAT_SECONDS)
        {
            seen.count += 1;
            seen.last = now;
            let mut event = event_of(note, &seen.key.name, seen.first, now);
            event.count = Some(seen.count);
            return EventStep::Count {
                key: seen.key.clone(),
                count: seen.count,
                fallback: Box::new(event),
            };
        }
        let object = note.about.name.as_deref().unwrap_or_default();
        let name = format!("{}.{unique}", object.get(..200).unwrap_or(object));
        let event = event_of(note, &name, now, now);
        let key = Key::new(event.metadata.namespace.clone().unwrap_or_default(), name);
        self.forget_oldest();
        self.seen.insert(id, Seen { key, count: 1, first: now, last: now });
        EventStep::Create(Box::new(event))
    }

    fn admits(&mut self, about: &About, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(about.clone()).or_insert(Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn forget_oldest(&mut self) {
        if self.seen.len() >= REMEMBERED {
            let middle = middle(self.seen.values().map(|seen| seen.last));
            self.seen.retain(|_, seen| seen.last > middle);
        }
        if self.buckets.len() >= REMEMBERED {
            let middle = middle(self.buckets.values().map(|bucket| bucket.at));
            self.buckets.retain(|_, bucket| bucket.at > middle);
        }
    }
}

fn middle(times: impl Iterator<Item = Timestamp>) -> Timestamp {
    let mut times: Vec<Timestamp> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn about(note: &Note) -> About {
    let object = &note.about;
    About {
        component: note.component,
        kind: object.kind.clone().unwrap_or_default(),
        key: Key {
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
        },
        uid: object.uid.clone().unwrap_or_default(),
    }
}

/// Events of cluster-scoped objects live in `default`, as everywhere in Kubernetes.
fn event_of(note: &Note, name: &str, first: Timestamp, last: Timestamp) -> Event {
    let namespace = note.about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let whole = |at: Timestamp| Time(Timestamp::from_second(at.as_second()).unwrap_or(at));
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: note.about.clone(),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        source: Some(EventSource { component: Some(note.component.to_owned()), host: None }),
        first_timestamp: Some(whole(first)),
        last_timestamp: Some(whole(last)),
        count: Some(1),
        type_: Some(
            match note.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .to_owned(),
        ),
        reporting_component: Some(note.component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}

/// Whether an Event's last occurrence is too long ago.
pub fn expired(event: &Event, now: Timestamp) -> bool {
    let last = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref().map(|at| at.0))
        .or_else(|| event.last_timestamp.as_ref().map(|at| at.0))
        .or_else(|| event.event_time.as_ref().map(|at| at.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|at| at.0));
    last.is_none_or(|last| now.duration_since(last) >= SignedDuration::from_secs(KEEP_SECONDS))
}

/// The newest count of every Event in a batch: of several counts only the last is written.
pub fn last_counts(steps: &[EventStep]) -> BTreeMap<&Key, i32> {
    let mut counts = BTreeMap::new();
    for step in steps {
        if let EventStep::Count { key, count, .. } = step {
            counts.insert(key, *count);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ObjectReference, Pod};

    use super::*;

    fn note(message: &str) -> Note {
        let mut note = Note::warning(&Pod::default(), "scheduler", "FailedScheduling", message);
        note.about = ObjectReference {
            kind: Some("Pod".into()),
            name: Some("web-1".into()),
            namespace: Some("shop".into()),
            ..ObjectReference::default()
        };
        note
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn a_repetition_counts_and_a_long_pause_makes_a_new_event() {
        let mut correlation = Correlation::default();
        let EventStep::Create(event) = correlation.plan(&note("no node"), at(0), "a") else {
            panic!("the first is new");
        };
        assert_eq!(event.metadata.name.as_deref(), Some("web-1.a"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let EventStep::Count { key, count, fallback } =
            correlation.plan(&note("no node"), at(5), "b")
        else {
            panic!("the second counts");
        };
        assert_eq!((key, count), (Key::new("shop", "web-1.a"), 2));
        assert_eq!(fallback.first_timestamp, event.first_timestamp);
        assert!(matches!(correlation.plan(&note("other"), at(6), "c"), EventStep::Create(_)));
        assert!(matches!(
            correlation.plan(&note("no node"), at(5 + REPEAT_SECONDS), "d"),
            EventStep::Create(_)
        ));
    }

    #[test]
    fn twenty_five_pass_at_once_and_then_one_in_five_minutes() {
        let mut correlation = Correlation::default();
        let passed = |correlation: &mut Correlation, seconds| {
            (0..100)
                .filter(|index| {
                    correlation.plan(&note(&index.to_string()), at(seconds), "x") != EventStep::Drop
                })
                .count()
        };
        assert_eq!(passed(&mut correlation, 0), 25);
        assert_eq!(passed(&mut correlation, 299), 0);
        assert_eq!(passed(&mut correlation, 301), 1);
        let mut other = note("x");
        other.about.name = Some("web-2".into());
        assert_ne!(correlation.plan(&other, at(301), "x"), EventStep::Drop);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlation = Correlation::default();
        for index in 0..3 * REMEMBERED {
            let mut note = note("x");
            note.about.name = Some(format!("web-{index}"));
            correlation.plan(&note, at(i64::try_from(index).expect("small")), "x");
        }
        assert!(correlation.seen.len() <= REMEMBERED + 1);
        assert!(correlation.buckets.len() <= REMEMBERED + 1);
    }

    #[test]
    fn an_event_expires_an_hour_after_its_last_time() {
        let event = event_of(&note("x"), "e", at(0), at(100));
        assert!(!expired(&event, at(100 + KEEP_SECONDS - 1)));
        assert!(expired(&event, at(100 + KEEP_SECONDS)));
    }
}
