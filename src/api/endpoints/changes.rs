//! Pure: what a watch of Endpoints is told when what they are made of changes: a Service, or a slice that
//! names one.
//!
//! Live, every change is told as it is: what its Services' Endpoints were before and are after it are
//! both known, and where they are equal there is nothing to tell. A watch that goes on from an older
//! revision finds the changes since, and not what the slices were in between. So it is told of every
//! Service that a change was about once, as it is now, at the last of those changes: MODIFIED, also
//! where the client knows it so already, or ADDED. That it was gone in between is never left out: a
//! DELETED stands at the first revision at which it was, with no addresses. Cut anywhere and resumed
//! there, a client misses nothing, for what it was not told yet is told of a change behind the cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;

use crate::api::selector_text::Selection;
use crate::object::{Key, Kind};
use crate::store::{ChangeType, Event, Header, Record};

/// The label by which a slice names its Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// What one Endpoints is made of.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub service: Arc<Record>,
    /// In order of their names.
    pub slices: Vec<Arc<Record>>,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub event: &'static str,
    pub origin: Origin,
    pub revision: u64,
}

/// The Endpoints of an origin; `None` for what this version cannot decode.
pub(super) type Make<'a> = &'a dyn Fn(&Origin) -> Option<Endpoints>;

/// Which Endpoints a watch is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub namespace: Option<String>,
    pub selection: Selection,
}

impl Scope {
    /// Whether those of a Service may ever be: by its key.
    pub fn covers(&self, service: &Key) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace)
            && self.selection.only_name().is_none_or(|name| name == service.name)
    }

    /// Whether they are, by the Service's labels, which are theirs.
    fn selects(&self, service: &Key, header: &Header) -> bool {
        self.selection.matches(service, &header.labels, &header.fields)
    }
}

/// The Service that a slice names.
pub(super) fn service_of(slice: &Key, header: &Header) -> Option<Key> {
    let name = header.labels.get(SERVICE)?.to_owned();
    Some(Key { namespace: slice.namespace.clone(), name })
}

/// The header before a change.
fn before(event: &Event) -> Option<&Header> {
    match (&event.previous, event.change) {
        (_, ChangeType::Created) => None,
        (Some(previous), _) => Some(previous),
        (None, ChangeType::Deleted) => Some(&event.record.header),
        (None, ChangeType::Updated) => None,
    }
}

/// The Services whose Endpoints a change is about: two where a slice goes from one to another.
fn concerned(scope: &Scope, event: &Event) -> BTreeSet<Key> {
    let record = &event.record;
    let all = match record.kind {
        Kind::EndpointSlice => {
            let headers = [before(event), Some(&*record.header)];
            headers.into_iter().flatten().filter_map(|one| service_of(&record.key, one)).collect()
        }
        _ => vec![record.key.clone()],
    };
    all.into_iter().filter(|service| scope.covers(service)).collect()
}

/// What the Endpoints of a scope are made of, at one revision. It follows the changes.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub scope: Scope,
    services: BTreeMap<Key, Arc<Record>>,
    /// By their Services and their own names.
    slices: BTreeMap<(Key, String), Arc<Record>>,
}

impl Sources {
    pub fn new(scope: Scope, services: Vec<Arc<Record>>, slices: Vec<Arc<Record>>) -> Self {
        let mut all = Self { scope, services: BTreeMap::new(), slices: BTreeMap::new() };
        services.into_iter().chain(slices).for_each(|record| all.put(&record));
        all
    }

    /// Everything that is selected.
    pub fn selected(&self) -> impl Iterator<Item = Origin> {
        let is_in = |service: &&Arc<Record>| self.scope.selects(&service.key, &service.header);
        self.services.values().filter(is_in).map(|service| self.origin(service))
    }

    /// What a change tells, which is taken in.
    pub fn take(&mut self, event: &Event, make: Make<'_>) -> Vec<Told> {
        let concerned = concerned(&self.scope, event);
        let before: Vec<_> = concerned.iter().map(|service| self.shown(service, make)).collect();
        self.apply(event);
        let mut all = Vec::new();
        for (service, before) in concerned.iter().zip(before) {
            let (event_name, origin) = match (before, self.shown(service, make)) {
                (None, None) => continue,
                (Some((_, was)), Some((_, is))) if was == is => continue,
                (None, Some((origin, _))) => ("ADDED", origin),
                (Some(_), Some((origin, _))) => ("MODIFIED", origin),
                // As it was, or as it is where it only left the selector.
                (Some((was, _)), None) => {
                    let is = self.services.get(service).map(|service| self.origin(service));
                    ("DELETED", is.filter(|origin| make(origin).is_some()).unwrap_or(was))
                }
            };
            all.push(Told { event: event_name, origin, revision: event.record.revision });
        }
        all
    }

    /// The Endpoints of a Service, if they are selected.
    fn shown(&self, service: &Key, make: Make<'_>) -> Option<(Origin, Endpoints)> {
        let service = self.services.get(service)?;
        if !self.scope.selects(&service.key, &service.header) {
            return None;
        }
        let origin = self.origin(service);
        make(&origin).map(|made| (origin, made))
    }

    fn origin(&self, service: &Arc<Record>) -> Origin {
        let first = (service.key.clone(), String::new());
        let own = self.slices.range(first..).take_while(|((of, _), _)| *of == service.key);
        Origin { service: service.clone(), slices: own.map(|(_, slice)| slice.clone()).collect() }
    }

    fn apply(&mut self, event: &Event) {
        let record = &event.record;
        if let Some(header) = before(event) {
            match record.kind {
                Kind::EndpointSlice => {
                    if let Some(service) = service_of(&record.key, header) {
                        self.slices.remove(&(service, record.key.name.clone()));
                    }
                }
                _ => drop(self.services.remove(&record.key)),
            }
        }
        if event.change != ChangeType::Deleted {
            self.put(record);
        }
    }

    fn put(&mut self, record: &Arc<Record>) {
        match record.kind {
            Kind::EndpointSlice => {
                let service = service_of(&record.key, &record.header);
                if let Some(service) = service.filter(|service| self.scope.covers(service)) {
                    self.slices.insert((service, record.key.name.clone()), record.clone());
                }
            }
            _ => {
                if self.scope.covers(&record.key) {
                    self.services.insert(record.key.clone(), record.clone());
                }
            }
        }
    }
}

/// The changes between the revision that a watch goes on from and the state it found.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    /// What the client knows.
    since: u64,
    services: BTreeMap<Key, Since>,
}

/// What happened to the Endpoints of one Service.
#[derive(Clone, Debug, Default)]
struct Since {
    /// Whether the client has them; not known before a change of the Service itself, without which it
    /// was what it is.
    held: Option<bool>,
    /// When the client lost them, and the Service then.
    lost: Option<(u64, Arc<Record>)>,
    last: u64,
}

impl Missed {
    pub fn new(since: u64) -> Self {
        Self { since, services: BTreeMap::new() }
    }

    /// Notes a change, in their order. Those of `since` itself count as well: a slice that went from one
    /// Service to another made two events, of which the client may have met the first.
    pub fn note(&mut self, scope: &Scope, event: &Event) {
        let (record, concerned) = (&event.record, concerned(scope, event));
        if record.revision <= self.since && concerned.len() < 2 {
            return;
        }
        for service in concerned {
            let since = self.services.entry(service).or_default();
            since.last = record.revision;
            if record.kind == Kind::EndpointSlice {
                continue;
            }
            let was_in = || before(event).is_some_and(|header| scope.selects(&record.key, header));
            let held = since.held.unwrap_or_else(was_in);
            let is_in =
                event.change != ChangeType::Deleted && scope.selects(&record.key, &record.header);
            if held && !is_in {
                since.lost = Some((record.revision, record.clone()));
            }
            since.held = Some(held && is_in);
        }
    }

    /// What the client is told, by revision, of the state that all the changes led to.
    pub fn told(self, sources: &Sources, make: Make<'_>) -> Vec<Told> {
        let mut all = Vec::new();
        for (service, since) in self.services {
            if let Some((revision, service)) = since.lost {
                let origin = Origin { service, slices: Vec::new() };
                all.push(Told { event: "DELETED", origin, revision });
            }
            if let Some((origin, _)) = sources.shown(&service, make) {
                let event = if since.held.unwrap_or(true) { "MODIFIED" } else { "ADDED" };
                all.push(Told { event, origin, revision: since.last });
            }
        }
        all.sort_by_key(|told| told.revision);
        all
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::json;

    use super::*;
    use crate::api::endpoints::made::endpoints;
    use crate::api::selector_text::Selection;

    /// What is done to one object.
    #[derive(Clone, Debug)]
    enum Act {
        /// The Service of this number, with this label.
        Service(u8, Option<&'static str>),
        NoService(u8),
        /// The slice of this number, of this Service, with an address for every bit.
        Slice(u8, Option<u8>, u8),
        NoSlice(u8),
    }

    const SERVICES: u8 = 3;
    /// Of the state before the first act.
    const FIRST: u64 = 10;

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let label = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
        let act = prop_oneof![
            3 => (0..SERVICES, label).prop_map(|(number, label)| Act::Service(number, label)),
            1 => (0..SERVICES).prop_map(Act::NoService),
            5 => (0..4u8, prop::option::weighted(0.9, 0..SERVICES), 0..4u8)
                .prop_map(|(number, service, mask)| Act::Slice(number, service, mask)),
            1 => (0..4u8).prop_map(Act::NoSlice),
        ];
        prop::collection::vec(act, 1..24)
    }

    fn service(number: u8) -> Key {
        Key::new(["red", "blue", "red"][usize::from(number)], format!("s{number}"))
    }

    type State = BTreeMap<(bool, Key), Arc<Record>>;

    /// A history: each change, and the state behind it; the first state is empty.
    struct History {
        events: Vec<Event>,
        states: Vec<State>,
    }

    impl History {
        fn of(acts: &[Act]) -> Self {
            let mut all = Self { events: Vec::new(), states: vec![State::new()] };
            acts.iter().for_each(|act| all.act(act));
            all
        }

        fn act(&mut self, act: &Act) {
            let revision = FIRST + self.states.len() as u64;
            let mut state = self.states[self.states.len() - 1].clone();
            let (kind, key) = match act {
                Act::Service(number, _) | Act::NoService(number) => {
                    (Kind::Service, service(*number))
                }
                // Each in both namespaces, by turns: names do not make it one's.
                Act::Slice(number, of, _) => {
                    let namespace = of.map_or_else(|| "red".to_owned(), |of| service(of).namespace);
                    (Kind::EndpointSlice, Key::new(namespace, format!("e{number}")))
                }
                Act::NoSlice(number) => {
                    (Kind::EndpointSlice, Key::new("red", format!("e{number}")))
                }
            };
            let place = (kind == Kind::Service, key.clone());
            let old = state.get(&place).cloned();
            let put = |labels: Vec<(&str, String)>, body: serde_json::Value| {
                let header = Header { labels: labels.into_iter().collect(), ..Header::default() };
                let body = Bytes::from(body.to_string());
                Arc::new(Record::new(kind, key.clone(), revision, body, Arc::new(header)))
            };
            let (change, record) = match (act, &old) {
                (Act::NoService(_) | Act::NoSlice(_), None) => return,
                (Act::NoService(_) | Act::NoSlice(_), Some(old)) => {
                    let (body, header) = (old.body.clone(), old.header.clone());
                    let record = Record::new(kind, key.clone(), revision, body, header);
                    (ChangeType::Deleted, Arc::new(record))
                }
                (Act::Service(_, label), _) => {
                    let labels: Vec<_> =
                        label.iter().map(|label| ("app", (*label).to_owned())).collect();
                    let told: BTreeMap<_, _> = labels.iter().cloned().collect();
                    let body = json!({"metadata": {"name": key.name, "namespace": key.namespace,
                        "labels": told}});
                    (ChangeType::Updated, put(labels, body))
                }
                (Act::Slice(_, of, mask), _) => {
                    let labels: Vec<_> = of.iter().map(|of| (SERVICE, service(*of).name)).collect();
                    let addresses: Vec<_> = (0..2u8)
                        .filter(|bit| mask & (1 << bit) != 0)
                        .map(|bit| json!({"addresses": [format!("10.0.0.{bit}")]}))
                        .collect();
                    let body = json!({"metadata": {"name": key.name, "namespace": key.namespace},
                        "addressType": "IPv4", "endpoints": addresses});
                    (ChangeType::Updated, put(labels, body))
                }
            };
            let change = if old.is_none() { ChangeType::Created } else { change };
            match change {
                ChangeType::Deleted => drop(state.remove(&place)),
                _ => drop(state.insert(place, record.clone())),
            }
            let previous = old.map(|old| old.header.clone());
            self.events.push(Event { change, record, previous, ends_transaction: true });
            self.states.push(state);
        }

        fn last(&self) -> u64 {
            FIRST + self.events.len() as u64
        }

        fn state(&self, revision: u64) -> &State {
            &self.states[usize::try_from(revision - FIRST).expect("small")]
        }

        /// The changes behind a revision, up to another one.
        fn between(&self, after: u64, upto: u64) -> impl Iterator<Item = &Event> {
            self.events
                .iter()
                .filter(move |event| event.record.revision > after && event.record.revision <= upto)
        }

        /// What is known at a revision, made from nothing: the dull model.
        fn known(&self, scope: &Scope, revision: u64) -> Known {
            let state = self.state(revision);
            let services = state.iter().filter(|((is_service, key), record)| {
                let in_namespace = scope.namespace.as_ref().is_none_or(|one| *one == key.namespace);
                let header = &record.header;
                let selected = scope.selection.matches(key, &header.labels, &header.fields);
                *is_service && in_namespace && selected
            });
            let of = |(_, service): (_, &Arc<Record>)| {
                let is_its = |slice: &&Arc<Record>| {
                    slice.kind == Kind::EndpointSlice
                        && slice.key.namespace == service.key.namespace
                        && slice
                            .header
                            .labels
                            .get(SERVICE)
                            .is_some_and(|of| *of == service.key.name)
                };
                let slices = state.values().filter(is_its).cloned().collect();
                let origin = Origin { service: service.clone(), slices };
                (service.key.clone(), made(&origin).expect("decodes"))
            };
            services.map(of).collect()
        }

        fn sources(&self, scope: &Scope, revision: u64) -> Sources {
            let (services, slices) =
                self.state(revision).values().cloned().partition(|one| one.kind == Kind::Service);
            Sources::new(scope.clone(), services, slices)
        }

        /// What a watch tells that goes on from one revision, finds the state of another, and lives on
        /// to a third.
        fn watched(&self, scope: &Scope, since: u64, found: u64, upto: u64) -> Vec<Told> {
            let mut missed = Missed::new(since);
            let again = self.between(since.saturating_sub(1), found);
            again.for_each(|event| missed.note(scope, event));
            let mut sources = self.sources(scope, found);
            let mut all = missed.told(&sources, &made);
            for event in self.between(found, upto) {
                all.extend(sources.take(event, &made));
            }
            all
        }
    }

    type Known = BTreeMap<Key, Endpoints>;

    fn made(origin: &Origin) -> Option<Endpoints> {
        let slices = origin.slices.iter().map(|slice| slice.typed().expect("a slice"));
        Some(endpoints(&*origin.service.typed().ok()?, &slices.collect::<Vec<_>>()))
    }

    /// As an informer takes it: whatever it is told it has, or has no more.
    fn learn(known: &mut Known, told: &Told) -> Option<Endpoints> {
        let key = told.origin.service.key.clone();
        match told.event {
            "DELETED" => known.remove(&key),
            _ => known.insert(key, made(&told.origin).expect("decodes")),
        }
    }

    fn scopes() -> Vec<Scope> {
        let of = |namespace: Option<&str>, labels, fields| Scope {
            namespace: namespace.map(str::to_owned),
            selection: Selection::parse(Kind::EndpointSlice, labels, fields).expect("parses"),
        };
        vec![
            of(None, None, None),
            of(Some("red"), None, None),
            of(None, Some("app=a"), None),
            of(Some("red"), Some("app!=b"), None),
            of(Some("red"), None, Some("metadata.name=s0")),
            of(Some("red"), Some("app"), Some("metadata.name=s2")),
        ]
    }

    proptest! {
        #[test]
        fn live_every_change_is_told_as_it_is(acts in acts(), from in any::<Index>()) {
            let history = History::of(&acts);
            let from = FIRST + from.index(history.states.len()) as u64;
            for scope in scopes() {
                let mut sources = history.sources(&scope, from);
                let mut known = history.known(&scope, from);
                let begins: Known = sources
                    .selected()
                    .map(|origin| (origin.service.key.clone(), made(&origin).expect("decodes")))
                    .collect();
                prop_assert_eq!(&begins, &known);
                for event in history.between(from, u64::MAX) {
                    let revision = event.record.revision;
                    for told in sources.take(event, &made) {
                        prop_assert_eq!(told.revision, revision);
                        let was = learn(&mut known, &told);
                        prop_assert_eq!(was.is_none(), told.event == "ADDED", "{:?}", told);
                        let is = known.get(&told.origin.service.key);
                        prop_assert_ne!(was.as_ref(), is, "nothing has changed");
                    }
                    prop_assert_eq!(&known, &history.known(&scope, revision));
                }
            }
        }

        /// A client that was cut anywhere, again and again, knows in the end what there is.
        #[test]
        fn a_cut_watch_misses_nothing(
            acts in acts(),
            from in any::<Index>(),
            lives in prop::collection::vec((any::<Index>(), any::<Index>(), any::<Index>()), 1..5),
        ) {
            let history = History::of(&acts);
            let from = FIRST + from.index(history.states.len()) as u64;
            for scope in scopes() {
                let (mut known, mut since, mut exact) = (history.known(&scope, from), from, true);
                let mut now = from;
                for (found, upto, cut) in &lives {
                    let later = |now: u64, by: &Index| {
                        now + by.index(usize::try_from(history.last() - now).expect("small") + 1) as u64
                    };
                    let found = later(now, found);
                    now = later(found, upto);
                    let told = history.watched(&scope, since, found, now);
                    let cut = cut.index(told.len() + 1);
                    for told in &told[..cut] {
                        prop_assert!(told.revision >= since, "revisions only grow");
                        since = told.revision;
                        let was = learn(&mut known, told);
                        if exact {
                            prop_assert_eq!(was.is_none(), told.event == "ADDED", "{:?}", told);
                        }
                    }
                    if cut == told.len() {
                        // A bookmark, as it were.
                        since = now;
                        prop_assert_eq!(&known, &history.known(&scope, now));
                    }
                    // What was made while it was away may be known by another name.
                    exact = cut == told.len();
                }
                for told in history.watched(&scope, since, history.last(), history.last()) {
                    learn(&mut known, &told);
                }
                prop_assert_eq!(&known, &history.known(&scope, history.last()));
            }
        }
    }

    #[test]
    fn a_slice_that_goes_to_another_service_changes_both() {
        let acts = [
            Act::Service(0, None),
            Act::Service(2, None),
            Act::Slice(0, Some(0), 1),
            Act::Slice(0, Some(2), 1),
        ];
        let history = History::of(&acts);
        let names = |told: &[Told]| -> Vec<(&str, String, u64)> {
            let of =
                |told: &Told| (told.event, told.origin.service.key.name.clone(), told.revision);
            told.iter().map(of).collect()
        };
        let both = [("MODIFIED", "s0".to_owned(), 14), ("MODIFIED", "s2".to_owned(), 14)];
        let everything = Scope::default();
        assert_eq!(names(&history.watched(&everything, 13, 13, 14)), both);
        assert_eq!(names(&history.watched(&everything, 13, 14, 14)), both);
        // The first of them may have come before the cut, and the second not.
        assert_eq!(names(&history.watched(&everything, 14, 14, 14)), both);
        assert_eq!(
            names(&history.watched(&everything, 12, 12, 13)),
            [("MODIFIED", "s0".to_owned(), 13)]
        );
        assert!(history.watched(&everything, 13, 13, 13).is_empty());
    }

    #[test]
    fn what_was_gone_in_between_is_deleted_and_added() {
        let acts = [
            Act::Service(0, Some("a")),
            Act::Service(0, Some("b")),
            Act::Service(0, Some("a")),
            Act::NoService(0),
            Act::Service(0, Some("a")),
            Act::Slice(0, Some(0), 1),
        ];
        let history = History::of(&acts);
        let selection = Selection::parse(Kind::EndpointSlice, Some("app=a"), None).expect("parses");
        let scope = Scope { namespace: None, selection };
        let told = |since, found| -> Vec<(&str, u64)> {
            let all = history.watched(&scope, since, found, found);
            all.iter().map(|told| (told.event, told.revision)).collect()
        };
        assert_eq!(told(11, 16), [("DELETED", 12), ("ADDED", 16)]);
        assert_eq!(told(12, 16), [("ADDED", 16)], "it was out at 12");
        assert_eq!(told(13, 14), [("DELETED", 14)]);
        assert_eq!(told(12, 14), [], "nobody knew it");
        assert_eq!(told(15, 16), [("MODIFIED", 16)]);
    }
}
