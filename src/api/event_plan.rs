//! Pure: which notes become Events. Repetitions raise a count, a flood is cut, and what nobody
//! repeats expires. The numbers are client-go's recorder's (`tools/record/events_cache.go`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::object::{Key, Note, Pool, Severity};

/// Notes of one source about one object that pass at once.
pub const BURST: f64 = 25.0;
/// Seconds until one more passes.
pub const REFILL_SECONDS: f64 = 300.0;
/// Seconds within which the same note raises a count instead of making a new Event.
pub const REPEAT_SECONDS: i64 = 600;
/// Of so many different messages alike within [`REPEAT_SECONDS`], and those that follow, one Event is
/// made: all that differs between them is the sentence.
pub const ALIKE: usize = 10;
/// Before the newest sentence of such an Event.
pub const COMBINED: &str = "(combined from similar events): ";
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

/// Who says something, about which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct About {
    component: &'static str,
    kind: Arc<str>,
    namespace: Arc<str>,
    name: Box<str>,
    uid: Box<str>,
}

/// A note but for its time: the same again is a repetition. The message of one that is about a part of
/// its object begins with the part; the empty one stands for all that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    about: Arc<About>,
    reason: &'static str,
    warning: bool,
    message: Arc<str>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug)]
struct Seen {
    /// The Event's.
    name: Box<str>,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

/// Notes that differ in their message only.
#[derive(Debug)]
struct Similar {
    messages: Vec<Arc<str>>,
    last: Timestamp,
}

/// What was seen lately. Ten thousand pods that fit nowhere are told with one message: it is held
/// once, and so is the object that two maps know.
#[derive(Debug, Default)]
pub struct Correlation {
    buckets: HashMap<Arc<About>, Bucket>,
    seen: HashMap<Said, Seen>,
    similar: HashMap<Said, Similar>,
    texts: Pool<str>,
}

impl Correlation {
    /// Decides about one note; `unique` distinguishes Events made at the same time.
    pub fn plan(&mut self, note: &Note, now: Timestamp, unique: &str) -> EventStep {
        let about = self.about(note);
        if !self.admits(&about, now) {
            return EventStep::Drop;
        }
        let message = match &note.about.field_path {
            Some(part) => self.texts.share_ref(&format!("{part}\n{}", note.message)),
            None => self.texts.share_ref(&note.message),
        };
        let warning = note.severity == Severity::Warning;
        let mut said = Said { about, reason: note.reason, warning, message };
        let mut note = Cow::Borrowed(note);
        if let Some(alike) = self.combined(&said, now) {
            said = alike;
            note.to_mut().message.insert_str(0, COMBINED);
        }
        let note = &*note;
        if let Some(seen) = self.seen.get_mut(&said)
            && now.duration_since(seen.last) < SignedDuration::from_secs(REPEAT_SECONDS)
        {
            seen.count += 1;
            seen.last = now;
            let mut event = event_of(note, &seen.name, seen.first, now);
            event.count = Some(seen.count);
            let key = Key::new(namespace_of(note), &*seen.name);
            return EventStep::Count { key, count: seen.count, fallback: Box::new(event) };
        }
        let object = note.about.name.as_deref().unwrap_or_default();
        let name = format!("{}.{unique}", object.get(..200).unwrap_or(object));
        let event = event_of(note, &name, now, now);
        self.forget_oldest();
        self.seen.insert(said, Seen { name: name.into(), count: 1, first: now, last: now });
        EventStep::Create(Box::new(event))
    }

    /// What stands for this note and all that are alike, once there are too many of them.
    fn combined(&mut self, said: &Said, now: Timestamp) -> Option<Said> {
        let alike = Said { message: self.texts.share_ref(""), ..said.clone() };
        let new = Similar { messages: Vec::new(), last: now };
        let similar = self.similar.entry(alike.clone()).or_insert(new);
        if now.duration_since(similar.last) > SignedDuration::from_secs(REPEAT_SECONDS) {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.contains(&said.message) {
            return None;
        }
        if similar.messages.len() + 1 >= ALIKE {
            return Some(alike);
        }
        similar.messages.push(said.message.clone());
        None
    }

    /// As it is held already, if it is.
    fn about(&mut self, note: &Note) -> Arc<About> {
        let object = &note.about;
        let about = About {
            component: note.component,
            kind: self.texts.share_ref(object.kind.as_deref().unwrap_or_default()),
            namespace: self.texts.share_ref(object.namespace.as_deref().unwrap_or_default()),
            name: object.name.as_deref().unwrap_or_default().into(),
            uid: object.uid.as_deref().unwrap_or_default().into(),
        };
        let held = self.buckets.get_key_value(&about).map(|(held, _)| held.clone());
        held.unwrap_or_else(|| Arc::new(about))
    }

    fn admits(&mut self, about: &Arc<About>, now: Timestamp) -> bool {
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
        if self.similar.len() >= REMEMBERED {
            let middle = middle(self.similar.values().map(|similar| similar.last));
            self.similar.retain(|_, similar| similar.last > middle);
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

/// Events of cluster-scoped objects live in `default`, as everywhere in Kubernetes.
fn namespace_of(note: &Note) -> &str {
    let namespace = note.about.namespace.as_deref();
    namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

fn event_of(note: &Note, name: &str, first: Timestamp, last: Timestamp) -> Event {
    let whole = |at: Timestamp| Time(Timestamp::from_second(at.as_second()).unwrap_or(at));
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace_of(note).to_owned()),
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
    fn the_tenth_sentence_alike_stands_for_those_that_follow() {
        let mut correlation = Correlation::default();
        let mut plan = |message: String, seconds: i64| {
            let unique = format!("{seconds}");
            match correlation.plan(&note(&message), at(seconds), &unique) {
                EventStep::Create(event) => (1, event.message.unwrap_or_default()),
                EventStep::Count { count, fallback, .. } => {
                    (count, fallback.message.unwrap_or_default())
                }
                EventStep::Drop => panic!("{message} is no flood"),
            }
        };
        for index in 0..9 {
            assert_eq!(plan(format!("no {index}"), index), (1, format!("no {index}")));
        }
        assert_eq!(plan("no 9".into(), 9), (1, format!("{COMBINED}no 9")));
        assert_eq!(plan("no 10".into(), 10), (2, format!("{COMBINED}no 10")));
        // One that is known counts as itself.
        assert_eq!(plan("no 3".into(), 11), (2, "no 3".into()));
        assert_eq!(plan("no 11".into(), 12 + REPEAT_SECONDS), (1, "no 11".into()));
        // The same sentence about two containers is two.
        let mut correlation = Correlation::default();
        let mut part = note("started");
        for (name, count) in [("web", 1), ("side", 1), ("web", 2)] {
            part.about.field_path = Some(format!("spec.containers{{{name}}}"));
            match correlation.plan(&part, at(0), name) {
                EventStep::Create(event) => {
                    assert_eq!(count, 1);
                    assert_eq!(event.involved_object.field_path, part.about.field_path);
                }
                EventStep::Count { count: counted, .. } => assert_eq!(counted, count),
                EventStep::Drop => panic!("three are no flood"),
            }
        }
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
        assert!(correlation.similar.len() <= REMEMBERED + 1);
        assert!(correlation.texts.len() <= 64, "{} texts", correlation.texts.len());
    }

    #[test]
    fn an_object_and_a_message_are_held_once() {
        let mut correlation = Correlation::default();
        for (pod, message) in [("web-1", "no node"), ("web-1", "other"), ("web-2", "no node")] {
            let mut note = note(message);
            note.about.name = Some(pod.into());
            correlation.plan(&note, at(0), pod);
        }
        assert_eq!((correlation.buckets.len(), correlation.seen.len()), (2, 3));
        let (web_1, _) = correlation
            .buckets
            .iter()
            .find(|(about, _)| &*about.name == "web-1")
            .expect("it is known");
        assert_eq!(Arc::strong_count(web_1), 4, "its bucket, what was said twice, and its kind");
        let messages = correlation.seen.keys().map(|said| &said.message);
        let same: Vec<&Arc<str>> = messages.filter(|text| &***text == "no node").collect();
        assert!(same.len() == 2 && Arc::ptr_eq(same[0], same[1]));
        assert!(size_of::<(Said, Seen)>() <= 112, "{} bytes", size_of::<(Said, Seen)>());
    }

    #[test]
    fn an_event_expires_an_hour_after_its_last_time() {
        let event = event_of(&note("x"), "e", at(0), at(100));
        assert!(!expired(&event, at(100 + KEEP_SECONDS - 1)));
        assert!(expired(&event, at(100 + KEEP_SECONDS)));
    }
}
