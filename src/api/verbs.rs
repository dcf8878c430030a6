//! The door: authorise, admit, store, answer. Both skins end here, [`crate::api::local`] without
//! HTTP and [`crate::api::routes`] with it. This file holds the door itself and the reads; the
//! writes are in `write.rs`, a commit's in `transact.rs`.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::stream::BoxStream;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use prometheus_client::registry::Registry;
use tracing::error;

use crate::api::access::{self, Identity, Part, Verb};
use crate::api::events::EventQueue;
use crate::api::health::Beats;
use crate::api::ids::IdSource;
use crate::api::large_bodies::LargeBodies;
use crate::api::metrics::Metrics;
use crate::api::query::{Continue, Query, forged_token};
use crate::api::recent::Recent;
use crate::api::secret_names::names_secret;
use crate::api::secret_view;
use crate::api::selector_text::Selection;
use crate::api::watch_lines::WatchLines;
use crate::clock::Clock;
use crate::object::ports::{Logs, Usages, WakeSync};
use crate::object::privilege::Privileges;
use crate::object::source::Source;
use crate::object::streams::Streams;
use crate::object::{ApiError, Key, Kind, Object, Reason};
use crate::store::{ListPage, ListRequest, Record, Store, StoreError, WatchItem};
use crate::task::Tasks;

/// What the API must be told.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Cluster addresses of Services are drawn from here.
    pub service_range: Ipv4Net,
    /// `30000..=32767`
    pub node_ports: RangeInclusive<u16>,
    pub clock: Clock,
    /// Of the keyed hashes that stand in for Secrets' values; the installation's own.
    pub secret_key: [u8; 32],
    pub ids: IdSource,
    /// What the daemon's operator allows of pods, beside what their namespaces' labels do.
    pub privileges: Arc<Privileges>,
}

/// The Kubernetes-compatible API over a store. Cheap to clone.
pub struct Api<S: Store> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    options: ApiOptions,
    events: EventQueue,
    beats: Beats,
    tasks: Tasks,
    recent: Recent,
    watch_lines: WatchLines,
    large_bodies: LargeBodies,
    logs: RwLock<Option<Arc<dyn Logs>>>,
    usages: RwLock<Option<Arc<dyn Usages>>>,
    streams: RwLock<Option<Arc<dyn Streams>>>,
    wake: RwLock<Option<Arc<dyn WakeSync>>>,
    webhook_secrets: RwLock<BTreeMap<String, Vec<u8>>>,
    registry: RwLock<Option<Arc<Registry>>>,
    metrics: Metrics,
    /// Objects that this version cannot decode, so that each is logged once.
    quarantined: Mutex<HashSet<(Kind, Key, u64)>>,
    quarantines: AtomicU64,
}

const EXPIRED_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

const EXPIRED_LIST: &str = "The resourceVersion for the provided list is too old.";

impl<S: Store> Clone for Api<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A list as the verbs answer it: records, not yet shown to anyone.
pub(crate) struct RecordPage {
    pub revision: u64,
    pub items: Vec<Arc<Record>>,
    pub continued: Option<String>,
    /// Only where no selector narrows the list, as in Kubernetes.
    pub remaining: Option<usize>,
}

impl RecordPage {
    /// What a list says of itself.
    pub fn meta(&self) -> ListMeta {
        ListMeta {
            resource_version: Some(self.revision.to_string()),
            continue_: self.continued.clone(),
            remaining_item_count: self.remaining.and_then(|count| i64::try_from(count).ok()),
            ..ListMeta::default()
        }
    }
}

impl<S: Store> Api<S> {
    /// Opens the door over a store, and starts the writer of Events.
    pub fn new(store: S, options: ApiOptions, tasks: &Tasks) -> Self {
        let (events, notes) = EventQueue::new();
        let api = Self {
            inner: Arc::new(Inner {
                store,
                beats: Beats::new(options.clock),
                options,
                events,
                tasks: tasks.clone(),
                recent: Recent::default(),
                watch_lines: WatchLines::default(),
                large_bodies: LargeBodies::default(),
                logs: RwLock::default(),
                usages: RwLock::default(),
                streams: RwLock::default(),
                wake: RwLock::default(),
                webhook_secrets: RwLock::default(),
                registry: RwLock::default(),
                metrics: Metrics::default(),
                quarantined: Mutex::default(),
                quarantines: AtomicU64::new(0),
            }),
        };
        tasks.spawn("events", crate::api::events::run(api.clone(), notes, tasks.stop().clone()));
        api
    }

    /// Who reads containers' logs.
    pub fn set_logs(&self, logs: Arc<dyn Logs>) {
        *self.inner.logs.write().unwrap_or_else(PoisonError::into_inner) = Some(logs);
    }

    /// Who measures what runs.
    pub fn set_usages(&self, usages: Arc<dyn Usages>) {
        *self.inner.usages.write().unwrap_or_else(PoisonError::into_inner) = Some(usages);
    }

    /// Who enters what runs.
    pub fn set_streams(&self, streams: Arc<dyn Streams>) {
        *self.inner.streams.write().unwrap_or_else(PoisonError::into_inner) = Some(streams);
    }

    /// Who is woken by a webhook.
    pub fn set_wake(&self, wake: Arc<dyn WakeSync>) {
        *self.inner.wake.write().unwrap_or_else(PoisonError::into_inner) = Some(wake);
    }

    /// Turns a source's webhook on.
    ///
    /// # Errors
    /// An empty secret, which anybody could sign with.
    pub fn set_webhook_secret(&self, source: &str, secret: &[u8]) -> Result<(), ApiError> {
        if secret.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the webhook secret of source {source} is empty: give one of 16 bytes or more, or none to leave the webhook off"
            )));
        }
        let mut secrets =
            self.inner.webhook_secrets.write().unwrap_or_else(PoisonError::into_inner);
        secrets.insert(source.to_owned(), secret.to_vec());
        Ok(())
    }

    /// What the loops' `beat` calls land in, and what /readyz reads.
    pub fn beats(&self) -> &Beats {
        &self.inner.beats
    }

    /// What the outer skin counts with.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Objects met so far that this version could not decode.
    pub fn quarantines(&self) -> u64 {
        self.inner.quarantines.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> &S {
        &self.inner.store
    }

    pub(crate) fn options(&self) -> &ApiOptions {
        &self.inner.options
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    pub(crate) fn events(&self) -> &EventQueue {
        &self.inner.events
    }

    /// The turns of large bodies.
    pub(super) fn large_bodies(&self) -> &LargeBodies {
        &self.inner.large_bodies
    }

    pub(super) fn watch_lines(&self) -> &WatchLines {
        &self.inner.watch_lines
    }

    pub(crate) fn logs(&self) -> Option<Arc<dyn Logs>> {
        self.inner.logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn usages(&self) -> Option<Arc<dyn Usages>> {
        self.inner.usages.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn streams(&self) -> Option<Arc<dyn Streams>> {
        self.inner.streams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn wake(&self) -> Option<Arc<dyn WakeSync>> {
        self.inner.wake.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn webhook_secret(&self, source: &str) -> Option<Vec<u8>> {
        let secrets = self.inner.webhook_secrets.read().unwrap_or_else(PoisonError::into_inner);
        secrets.get(source).cloned()
    }

    /// # Errors
    /// `NotFound`, or `Forbidden`.
    pub(crate) fn get(
        &self,
        who: &Identity,
        kind: Kind,
        key: &Key,
    ) -> Result<Arc<Record>, ApiError> {
        who.may(Verb::Get, kind, Part::Whole, key)?;
        self.inner.store.get(kind, key).ok_or_else(|| ApiError::not_found(kind, &key.name))
    }

    /// # Errors
    /// A bad revision, an expired token, or `Forbidden`.
    pub(crate) fn list(
        &self,
        who: &Identity,
        kind: Kind,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<RecordPage, ApiError> {
        let at = self.asked_at(who, kind, namespace, query)?;
        Ok(told(self.page(kind, namespace, query, at)?, query))
    }

    /// A list, and beside it all of a second kind that `select` names, both of one state.
    ///
    /// # Errors
    /// As [`Api::list`].
    pub(crate) fn list_beside(
        &self,
        who: &Identity,
        kinds: (Kind, Kind),
        namespace: Option<&str>,
        query: &Query,
        select: &(dyn Fn(&Record) -> bool + Sync),
    ) -> Result<(RecordPage, Vec<Arc<Record>>), ApiError> {
        let at = self.asked_at(who, kinds.1, namespace, query)?;
        self.asked_at(who, kinds.0, namespace, query)?;
        let selected = |record: &Record| selects(&query.selection, record);
        let after = query.continued.as_ref().map(|place| &place.after);
        let first = ListRequest { namespace, limit: query.limit, after, at, select: &selected };
        let second = ListRequest { namespace, limit: 0, after: None, at, select };
        let both = self.inner.store.list_both((kinds.0, &first), (kinds.1, &second));
        let (page, beside) = both.map_err(|error| list_error(error, query))?;
        Ok((told(page, query), beside.items))
    }

    /// The revision that a list is to be read at, for whom it may be read.
    fn asked_at(
        &self,
        who: &Identity,
        kind: Kind,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<Option<u64>, ApiError> {
        let scope =
            Key { namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        who.may(Verb::List, kind, Part::Whole, &scope)?;
        let current = self.inner.store.revision();
        if let Some(asked) = query.revision
            && asked > current
        {
            return Err(too_large(asked, current));
        }
        Ok(match (&query.continued, query.exact) {
            (Some(place), _) => place.revision,
            (None, true) => query.revision,
            (None, false) => None,
        })
    }

    fn page(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        query: &Query,
        at: Option<u64>,
    ) -> Result<ListPage, ApiError> {
        let selection = &query.selection;
        // `metadata.name=x` in one namespace is a get: `kubectl get x -w` and `wait` ask like this.
        if let (Some(name), None, None, true) = (
            selection.only_name(),
            at,
            &query.continued,
            namespace.is_some() || !kind.row().namespaced,
        ) {
            let key =
                Key { namespace: namespace.unwrap_or_default().to_owned(), name: name.to_owned() };
            // Both of one state: an object that only changes must never be answered as gone.
            let (revision, found) = self.inner.store.read(kind, &key);
            let items = found.into_iter().filter(|record| selects(selection, record)).collect();
            return Ok(ListPage { revision, items, remaining: 0 });
        }
        let select = |record: &Record| selects(selection, record);
        let request = ListRequest {
            namespace,
            limit: query.limit,
            after: query.continued.as_ref().map(|place| &place.after),
            at,
            select: &select,
        };
        self.inner.store.list(kind, &request).map_err(|error| list_error(error, query))
    }

    /// What goes with an expired token: one that goes on at the same key in whatever state is the
    /// newest then. The client chooses between starting over and an inconsistent rest.
    pub(crate) fn fresh_token(expired: &Continue) -> String {
        Continue { revision: None, after: expired.after.clone() }.encode()
    }

    /// Everything after a revision; the caller filters.
    ///
    /// # Errors
    /// `Expired` below the compaction floor, `Timeout` above the latest revision.
    pub(crate) fn changes(
        &self,
        who: &Identity,
        kind: Kind,
        from: Option<u64>,
    ) -> Result<BoxStream<'static, WatchItem>, ApiError> {
        who.may(Verb::Watch, kind, Part::Whole, &Key::default())?;
        self.inner.store.watch(kind, from).map_err(store_error)
    }

    /// The same of two kinds, in one order.
    ///
    /// # Errors
    /// As [`Api::changes`].
    pub(crate) fn changes_of_both(
        &self,
        who: &Identity,
        kinds: (Kind, Kind),
        from: u64,
    ) -> Result<BoxStream<'static, WatchItem>, ApiError> {
        for kind in [kinds.0, kinds.1] {
            who.may(Verb::Watch, kind, Part::Whole, &Key::default())?;
        }
        self.inner.store.watch_both(kinds, Some(from)).map_err(store_error)
    }

    /// The typed object as this identity may see it. To a node agent a Secret that no pod of its
    /// node names does not exist: a hash in place of a value would end up in a container.
    ///
    /// # Errors
    /// A stored object that this version cannot decode; `NotFound`.
    pub(crate) fn shown<K: Object>(
        &self,
        who: &Identity,
        record: &Arc<Record>,
    ) -> Result<Arc<K>, ApiError> {
        let object = self.typed::<K>(record)?;
        if K::OBJECT_KIND == Kind::Secret
            && let Some(node) = who.reads_named_secrets()
        {
            return match self.named_by_a_pod(node, &record.key) {
                true => Ok(object),
                false => Err(ApiError::not_found(Kind::Secret, &record.key.name)),
            };
        }
        Ok(self.redacted(who, object))
    }

    /// A Secret with hashes in place of its values, unless the identity may read it.
    pub(crate) fn redacted<K: Object>(&self, who: &Identity, object: Arc<K>) -> Arc<K> {
        if K::OBJECT_KIND != Kind::Secret || who.sees_secrets() {
            return object;
        }
        secret_view::shown(object, &self.inner.options.secret_key)
    }

    /// Whether some pod bound to the node names the Secret: the one way for its agent to read it.
    fn named_by_a_pod(&self, node: &str, secret: &Key) -> bool {
        let on_node = |record: &Record| {
            if record.header.fields.get("spec.nodeName").is_none_or(|name| name != node) {
                return false;
            }
            // Its agent holds it, as a rule.
            let named = record.typed::<Pod>().is_ok_and(|pod| names_secret(&pod, &secret.name));
            record.let_go();
            named
        };
        self.inner.store.find(Kind::Pod, &secret.namespace, &on_node).is_some()
    }

    /// Decodes a record; what cannot be decoded is counted, and logged once a state.
    ///
    /// # Errors
    /// `InternalError` naming the object; nothing else stops.
    pub(crate) fn typed<K: Object>(&self, record: &Arc<Record>) -> Result<Arc<K>, ApiError> {
        let keep = |object: &Arc<K>| self.inner.recent.keep(record, object.clone());
        record.typed_noting::<K>(keep).map_err(|failure| {
            self.inner.quarantines.fetch_add(1, Ordering::Relaxed);
            let id = (record.kind, record.key.clone(), record.revision);
            let mut known = self.inner.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
            if known.insert(id) {
                error!(kind = %record.kind, key = %record.key, revision = record.revision,
                    %failure, "stored object cannot be decoded, it is left out");
            }
            ApiError::internal(format!(
                "the stored {} {} cannot be decoded by this version",
                record.kind, record.key
            ))
        })
    }

    /// The typed objects of some records; the undecodable ones are left out.
    pub(crate) fn all_shown<K: Object>(
        &self,
        who: &Identity,
        records: &[Arc<Record>],
    ) -> Vec<Arc<K>> {
        records.iter().filter_map(|record| self.shown(who, record).ok()).collect()
    }

    /// An error about a Secret may quote what it complains about: whoever may not read the values
    /// gets the reason and the fields alone.
    pub(crate) fn scrubbed(&self, who: &Identity, kind: Kind, error: ApiError) -> ApiError {
        if kind != Kind::Secret || who.sees_secrets() {
            return error;
        }
        let mut plain = ApiError::new(error.reason, "the Secret is not as it must be");
        plain.details = error.details.map(|mut details| {
            for cause in details.causes.iter_mut().flatten() {
                cause.message = None;
            }
            details
        });
        plain
    }

    /// The text of /metrics.
    ///
    /// # Errors
    /// `ServiceUnavailable` before the daemon has handed its registry in.
    pub(crate) fn metrics_text(&self) -> Result<String, ApiError> {
        let registry = self.inner.registry.read().unwrap_or_else(PoisonError::into_inner).clone();
        let registry = registry.ok_or_else(|| {
            ApiError::new(Reason::ServiceUnavailable, "the daemon is starting, ask again soon")
        })?;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .map_err(|error| ApiError::internal(format!("the metrics do not encode: {error}")))?;
        Ok(text)
    }

    /// What /metrics shows.
    pub fn set_registry(&self, registry: Arc<Registry>) {
        *self.inner.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(registry);
    }

    /// The refusal of whoever would change the cluster past Git, naming the sources.
    pub(crate) fn through_git(&self) -> ApiError {
        let request =
            ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
        let sources = self.inner.store.list(Kind::Source, &request).map(|page| page.items);
        let named: Vec<String> = sources
            .unwrap_or_default()
            .iter()
            .filter_map(|record| self.typed::<Source>(record).ok())
            .map(|source| {
                let name = source.metadata.name.as_deref().unwrap_or_default();
                format!("{name} ({}, branch {})", source.spec.url, source.spec.branch)
            })
            .collect();
        access::through_git(&named)
    }
}

/// A page as it is answered.
fn told(page: ListPage, query: &Query) -> RecordPage {
    let continued = (page.remaining > 0)
        .then(|| page.items.last())
        .flatten()
        .map(|last| Continue { revision: Some(page.revision), after: last.key.clone() })
        .map(|place| place.encode());
    let remaining =
        (page.remaining > 0 && query.selection.is_everything()).then_some(page.remaining);
    RecordPage { revision: page.revision, items: page.items, continued, remaining }
}

/// Why a list cannot be read at its revision.
fn list_error(error: StoreError, query: &Query) -> ApiError {
    match error {
        StoreError::Compacted { .. } if query.continued.is_some() => {
            ApiError::new(Reason::Expired, EXPIRED_TOKEN)
        }
        StoreError::Compacted { .. } => ApiError::new(Reason::Expired, EXPIRED_LIST),
        StoreError::Future { .. } if query.continued.is_some() => forged_token(),
        other => store_error(other),
    }
}

/// Whether a selection holds for a record.
pub(crate) fn selects(selection: &Selection, record: &Record) -> bool {
    selection.matches(&record.key, &record.header.labels, &record.header.fields)
}

/// The reference server's 504 for a revision that is not reached yet.
pub(crate) fn too_large(asked: u64, current: u64) -> ApiError {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
    let mut error = ApiError::new(
        Reason::Timeout,
        format!("Timeout: Too large resource version: {asked}, current: {current}"),
    );
    error.details = Some(Box::new(StatusDetails {
        causes: Some(vec![StatusCause {
            reason: Some("ResourceVersionTooLarge".to_owned()),
            message: Some("Too large resource version".to_owned()),
            field: None,
        }]),
        retry_after_seconds: Some(1),
        ..StatusDetails::default()
    }));
    error
}

/// A store's refusal as the API answers it, where the verb has nothing better to say.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Exists { kind, key, .. } => ApiError::already_exists(kind, &key.name),
        StoreError::Missing { kind, key, .. } => ApiError::not_found(kind, &key.name),
        StoreError::Stale { kind, key, .. } => ApiError::conflict(kind, &key.name),
        StoreError::Claimed { claim, holder_kind, holder, .. } => {
            ApiError::new(Reason::Conflict, format!("{claim} belongs to {holder_kind} {holder}"))
        }
        StoreError::Compacted { asked, floor } => {
            ApiError::new(Reason::Expired, format!("too old resource version: {asked} ({floor})"))
        }
        StoreError::Future { asked, current } => too_large(asked, current),
        StoreError::Write(problem) => ApiError::new(
            Reason::InternalError,
            format!("the write is not durable and was not made: {problem}"),
        ),
        StoreError::Closed => {
            ApiError::new(Reason::ServiceUnavailable, "the daemon is stopping, ask again soon")
        }
    }
}
