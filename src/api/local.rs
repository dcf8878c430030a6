//! The inner skin: [`Cluster`] straight onto the verbs, for one identity. No HTTP, no JSON round
//! trip; objects are decoded once and shared with whoever holds them at the same time.
//!
//! A room is generic over [`Object`], the verbs over `Admit`: the calls in between are erased by
//! kind, one boxed future each, so that thirteen kinds are compiled thirteen times and not squared.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tracing::{debug, error};

use crate::api::access::{Identity, Part};
use crate::api::selector_text::Selection;
use crate::api::verbs::{Api, selects};
use crate::api::write_options::WriteOptions;
use crate::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Listing, Note, Object, Patch, Scope,
};
use crate::store::{ChangeType, Event, ListRequest, Record, Store, WatchItem};
use crate::with_kind;

/// The cluster as one identity of this process sees it.
pub struct Local<S: Store> {
    pub(crate) api: Api<S>,
    pub(crate) who: Identity,
}

impl<S: Store> Clone for Local<S> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), who: self.who.clone() }
    }
}

impl<S: Store> Api<S> {
    /// The inner skin for a room.
    pub fn local(&self, identity: Identity) -> Local<S> {
        Local { api: self.clone(), who: identity }
    }
}

type Anything = Arc<dyn Any + Send + Sync>;
type Answer<'a> = BoxFuture<'a, Result<Anything, ApiError>>;

/// The way back from an erased answer.
fn typed<K: Object>(answer: Result<Anything, ApiError>) -> Result<Arc<K>, ApiError> {
    answer.map(|object| object.downcast::<K>().expect("the kind that was asked answers"))
}

fn own<K: Object>(object: &(dyn Any + Send + Sync)) -> &K {
    object.downcast_ref::<K>().expect("the kind names the type of its objects")
}

impl<S: Store> Local<S> {
    fn create_any<'a>(&'a self, kind: Kind, object: &'a (dyn Any + Send + Sync)) -> Answer<'a> {
        with_kind!(kind, K => Box::pin(async move {
            let options = WriteOptions::default();
            let object = self.api.create::<K>(&self.who, own(object), &options).await?;
            Ok(object as Anything)
        }))
    }

    fn update_any<'a>(
        &'a self,
        kind: Kind,
        part: Part,
        object: &'a (dyn Any + Send + Sync),
    ) -> Answer<'a> {
        with_kind!(kind, K => Box::pin(async move {
            let options = WriteOptions::default();
            let object = self.api.update::<K>(&self.who, part, own(object), &options).await?;
            Ok(object as Anything)
        }))
    }

    fn patch_any<'a>(
        &'a self,
        kind: Kind,
        part: Part,
        key: &'a Key,
        patch: &'a Patch,
    ) -> Answer<'a> {
        with_kind!(kind, K => Box::pin(async move {
            let options = WriteOptions::default();
            let (object, unknown) =
                self.api.patch::<K>(&self.who, part, key, patch, &[], &options).await?;
            if !unknown.is_empty() {
                debug!(%kind, %key, ?unknown, "patch names fields that the kind does not have");
            }
            Ok(object as Anything)
        }))
    }

    fn scale_any<'a>(
        &'a self,
        kind: Kind,
        key: &'a Key,
        replicas: i32,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        with_kind!(kind, K => Box::pin(async move {
            let options = WriteOptions::default();
            self.api.scale::<K>(&self.who, key, replicas, version, &options).await.map(drop)
        }))
    }

    fn delete_any<'a>(
        &'a self,
        kind: Kind,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        with_kind!(kind, K => Box::pin(async move {
            self.api.delete::<K>(&self.who, key, options, false).await.map(drop)
        }))
    }

    fn records(
        &self,
        kind: Kind,
        scope: &Scope,
        selection: &Selection,
    ) -> Result<(u64, Vec<Arc<Record>>), ApiError> {
        let select = |record: &Record| selects(selection, record);
        let request = ListRequest {
            namespace: scope.namespace.as_deref(),
            limit: 0,
            after: None,
            at: None,
            select: &select,
        };
        let page = self.api.store().list(kind, &request).map_err(crate::api::verbs::store_error)?;
        Ok((page.revision, page.items))
    }
}

impl<S: Store> Local<S> {
    /// One object after the other: what is not kept of one is let go before the next is decoded.
    fn kept<K: Object, T>(
        &self,
        records: &[Arc<Record>],
        mut keep: impl FnMut(&Arc<K>) -> T,
    ) -> Vec<T> {
        let shown = records.iter().filter_map(|record| self.api.shown(&self.who, record).ok());
        shown.map(|object| keep(&object)).collect()
    }
}

impl<S: Store> Cluster for Local<S> {
    async fn get<K: Object>(&self, key: &Key) -> Result<Arc<K>, ApiError> {
        let record = self.api.get(&self.who, K::OBJECT_KIND, key)?;
        self.api.shown(&self.who, &record)
    }

    async fn list<K: Object>(&self, scope: &Scope) -> Result<Listing<K>, ApiError> {
        let kind = K::OBJECT_KIND;
        let selection = Selection::parse(kind, scope.labels.as_deref(), scope.fields.as_deref())?;
        let (revision, records) = self.records(kind, scope, &selection)?;
        Ok(Listing { revision, items: self.api.all_shown(&self.who, &records) })
    }

    async fn list_keeping<K: Object, T: Send>(
        &self,
        scope: &Scope,
        keep: impl FnMut(&Arc<K>) -> T + Send,
    ) -> Result<Vec<T>, ApiError> {
        let kind = K::OBJECT_KIND;
        let selection = Selection::parse(kind, scope.labels.as_deref(), scope.fields.as_deref())?;
        let (_, records) = self.records(kind, scope, &selection)?;
        Ok(self.kept(&records, keep))
    }

    fn watch_keeping<K: Object, T: Send + 'static>(
        &self,
        scope: Scope,
        keep: impl Fn(&Arc<K>) -> T + Send + Sync + 'static,
    ) -> impl Stream<Item = Change<T>> + Send + 'static {
        let kind = K::OBJECT_KIND;
        let parsed = Selection::parse(kind, scope.labels.as_deref(), scope.fields.as_deref());
        let selection = parsed.unwrap_or_else(|failure| {
            error!(%kind, ?scope, %failure, "watch with a selector that is none: it selects nothing");
            nothing()
        });
        let watch = Watch { local: self.clone(), scope, selection, events: None, pause: None };
        futures::stream::unfold((watch, keep), |(mut watch, keep)| async move {
            let change = watch.next(&keep).await;
            Some((change, (watch, keep)))
        })
    }

    async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        typed(self.create_any(K::OBJECT_KIND, object).await)
    }

    async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        typed(self.update_any(K::OBJECT_KIND, Part::Whole, object).await)
    }

    async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        typed(self.update_any(K::OBJECT_KIND, Part::Status, object).await)
    }

    async fn patch<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        typed(self.patch_any(K::OBJECT_KIND, Part::Whole, key, patch).await)
    }

    async fn patch_status<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        typed(self.patch_any(K::OBJECT_KIND, Part::Status, key, patch).await)
    }

    async fn scale<K: Object>(
        &self,
        key: &Key,
        replicas: i32,
        resource_version: Option<&str>,
    ) -> Result<(), ApiError> {
        self.scale_any(K::OBJECT_KIND, key, replicas, resource_version).await
    }

    async fn bind(&self, pod: &Key, uid: &str, node: &str) -> Result<(), ApiError> {
        self.api.bind(&self.who, pod, uid, node, false).await
    }

    async fn delete<K: Object>(&self, key: &Key, options: &DeleteOptions) -> Result<(), ApiError> {
        self.delete_any(K::OBJECT_KIND, key, options).await
    }

    fn note(&self, note: Note) {
        self.api.events().note(note);
    }
}

/// Matches no object: no label key is empty.
fn nothing() -> Selection {
    use crate::object::selector::{Requirement, Selector};
    Selection {
        labels: Selector { requirements: vec![Requirement::Exists(String::new())] },
        fields: Vec::new(),
    }
}

/// Between two lists that follow each other because the store gave no stream: it is closing.
const RELIST_PAUSE: Duration = Duration::from_millis(100);

struct Watch<S: Store> {
    local: Local<S>,
    scope: Scope,
    selection: Selection,
    events: Option<BoxStream<'static, WatchItem>>,
    pause: Option<Duration>,
}

impl<S: Store> Watch<S> {
    /// Cancel safe: what is taken from the stream is answered in the same step.
    async fn next<K: Object, T>(&mut self, keep: &impl Fn(&Arc<K>) -> T) -> Change<T> {
        loop {
            let Some(events) = &mut self.events else {
                if let Some(pause) = self.pause.take() {
                    tokio::time::sleep(pause).await;
                }
                match self.begin(keep) {
                    Ok(reset) => return reset,
                    Err(failure) => {
                        debug!(kind = %K::OBJECT_KIND, %failure, "watch cannot begin, trying again");
                        self.pause = Some(RELIST_PAUSE);
                        continue;
                    }
                }
            };
            match events.next().await {
                Some(WatchItem::Event(event)) => {
                    if let Some(change) = self.change(&event, keep) {
                        return change;
                    }
                }
                Some(WatchItem::Progress(_)) => {}
                Some(WatchItem::Lost) => {
                    debug!(kind = %K::OBJECT_KIND, "watch lagged behind, listing again");
                    self.events = None;
                }
                None => {
                    self.events = None;
                    self.pause = Some(RELIST_PAUSE);
                }
            }
        }
    }

    fn begin<K: Object, T>(&mut self, keep: &impl Fn(&Arc<K>) -> T) -> Result<Change<T>, ApiError> {
        let local = &self.local;
        let (revision, records) = local.records(K::OBJECT_KIND, &self.scope, &self.selection)?;
        self.events = Some(local.api.changes(&local.who, K::OBJECT_KIND, Some(revision))?);
        Ok(Change::Reset(local.kept(&records, keep)))
    }

    /// What an event is to this scope; an object that leaves the selector is gone.
    fn change<K: Object, T>(
        &self,
        event: &Event,
        keep: &impl Fn(&Arc<K>) -> T,
    ) -> Option<Change<T>> {
        let record = &event.record;
        if self.scope.namespace.as_ref().is_some_and(|wanted| *wanted != record.key.namespace) {
            return None;
        }
        let alive = event.change != ChangeType::Deleted;
        let object =
            || self.local.api.shown::<K>(&self.local.who, record).ok().map(|object| keep(&object));
        if alive && selects(&self.selection, record) {
            return object().map(Change::Applied);
        }
        let before = event.previous.as_ref().unwrap_or(&record.header);
        let was_in = (event.previous.is_some() || !alive)
            && self.selection.matches(&record.key, &before.labels, &before.fields);
        was_in.then(object).flatten().map(Change::Deleted)
    }
}
