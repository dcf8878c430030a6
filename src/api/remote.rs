//! [`Cluster`] over a `kube::Client`: the same conversation for a room in another process or on
//! another host, and, in tests, a client that others wrote speaking with our routes.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, header};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use kube::Client;
use kube::core::{Status, WatchEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::api::event_plan::{Correlation, EventStep};
use crate::api::ids::IdSource;
use crate::clock::Clock;
use crate::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Listing, Note, Object, Patch, Propagation,
    Reason, Scope,
};
use crate::task::Tasks;

/// Objects asked for at once: the page size of client-go.
const PAGE: usize = 500;
/// A watch asks for less than the server's shortest own limit.
const WATCH_SECONDS: u64 = 290;
/// Between two tries of a watch that cannot begin.
const RETRY: Duration = Duration::from_secs(1);
/// Notes that wait for a slow server; more are dropped.
const NOTES: usize = 1024;

/// The cluster behind a client. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    client: Client,
    notes: mpsc::Sender<Note>,
}

impl Remote {
    /// Speaks through `client`; Events are written by a task of their own.
    pub fn new(client: Client, clock: Clock, ids: IdSource, tasks: &Tasks) -> Self {
        let (notes, mut receiver) = mpsc::channel::<Note>(NOTES);
        let remote = Self { client, notes };
        let (writer, stop) = (remote.clone(), tasks.stop().clone());
        tasks.spawn("remote-events", async move {
            let mut correlation = Correlation::default();
            loop {
                let note = tokio::select! {
                    biased;
                    // Cancel safe: a cancelled token stays cancelled.
                    () = stop.cancelled() => return,
                    // Cancel safe: a note that was not received stays in the channel.
                    note = receiver.recv() => note,
                };
                let Some(note) = note else { return stop.cancelled().await };
                let unique = format!("{:x}{}", clock.now().as_nanosecond(), ids.suffix());
                let step = correlation.plan(&note, clock.now(), &unique);
                if let Err(error) = writer.record(step).await {
                    debug!(%error, "event not written");
                }
            }
        });
        remote
    }

    async fn record(&self, step: EventStep) -> Result<(), ApiError> {
        match step {
            EventStep::Drop => Ok(()),
            EventStep::Create(event) => self.create(&*event).await.map(drop),
            EventStep::Count { key, count, fallback } => {
                let patch = json!({"count": count, "lastTimestamp": fallback.last_timestamp});
                let counted = self
                    .patch::<k8s_openapi::api::core::v1::Event>(&key, &Patch::Merge(patch))
                    .await;
                match counted {
                    Err(error) if error.is_not_found() => self.create(&*fallback).await.map(drop),
                    other => other.map(drop),
                }
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        content: &str,
        body: Option<&Value>,
    ) -> Result<T, ApiError> {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content)
            .body(bytes)
            .map_err(|error| ApiError::bad_request(format!("the request: {error}")))?;
        self.client.request::<T>(request).await.map_err(api_error)
    }

    async fn object<K: Object>(
        &self,
        method: Method,
        path: String,
        content: &str,
        body: Option<&Value>,
    ) -> Result<Arc<K>, ApiError> {
        self.send::<K>(method, path, content, body).await.map(Arc::new)
    }

    /// A whole list, page by page, of what `keep` makes of each object.
    async fn pages<K: Object, T>(
        &self,
        scope: &Scope,
        mut keep: impl FnMut(K) -> T,
    ) -> Result<(u64, Vec<T>), ApiError> {
        let (mut items, mut token) = (Vec::new(), None);
        loop {
            let mut path = collection::<K>(scope);
            path.push_str(&format!("&limit={PAGE}"));
            if let Some(token) = &token {
                path.push_str(&format!("&continue={token}"));
            }
            let page: Page<K> = self.send(Method::GET, path, JSON, None).await?;
            let revision = page.metadata.resource_version.parse().unwrap_or(0);
            items.extend(page.items.into_iter().map(&mut keep));
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok((revision, items));
            }
        }
    }

    async fn patched<K: Object>(&self, path: String, patch: &Patch) -> Result<Arc<K>, ApiError> {
        let (content, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
        };
        self.object(Method::PATCH, path, content, Some(body)).await
    }
}

const JSON: &str = "application/json";

impl Cluster for Remote {
    async fn get<K: Object>(&self, key: &Key) -> Result<Arc<K>, ApiError> {
        self.object(Method::GET, path_of(K::OBJECT_KIND, key, ""), JSON, None).await
    }

    async fn list<K: Object>(&self, scope: &Scope) -> Result<Listing<K>, ApiError> {
        let (revision, items) = self.pages(scope, Arc::new).await?;
        Ok(Listing { revision, items })
    }

    async fn list_keeping<K: Object, T: Send>(
        &self,
        scope: &Scope,
        mut keep: impl FnMut(&Arc<K>) -> T + Send,
    ) -> Result<Vec<T>, ApiError> {
        let (_, items) = self.pages(scope, |object| keep(&Arc::new(object))).await?;
        Ok(items)
    }

    fn watch_keeping<K: Object, T: Send + 'static>(
        &self,
        scope: Scope,
        keep: impl Fn(&Arc<K>) -> T + Send + Sync + 'static,
    ) -> impl Stream<Item = Change<T>> + Send + 'static {
        let watch = Watch { remote: self.clone(), scope, revision: None, events: None };
        futures::stream::unfold((watch, keep), |(mut watch, keep)| async move {
            let change = watch.next(|object| keep(&Arc::new(object))).await;
            Some((change, (watch, keep)))
        })
    }

    async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        let scope = Key { namespace: object.key().namespace, name: String::new() };
        let path = path_of(K::OBJECT_KIND, &scope, "");
        self.object(Method::POST, path, JSON, Some(&value_of(object)?)).await
    }

    async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        let path = path_of(K::OBJECT_KIND, &object.key(), "");
        self.object(Method::PUT, path, JSON, Some(&value_of(object)?)).await
    }

    async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        let path = path_of(K::OBJECT_KIND, &object.key(), "/status");
        self.object(Method::PUT, path, JSON, Some(&value_of(object)?)).await
    }

    async fn patch<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        self.patched(path_of(K::OBJECT_KIND, key, ""), patch).await
    }

    async fn patch_status<K: Object>(&self, key: &Key, patch: &Patch) -> Result<Arc<K>, ApiError> {
        self.patched(path_of(K::OBJECT_KIND, key, "/status"), patch).await
    }

    async fn scale<K: Object>(
        &self,
        key: &Key,
        replicas: i32,
        resource_version: Option<&str>,
    ) -> Result<(), ApiError> {
        let body = json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": key.name, "namespace": key.namespace,
                "resourceVersion": resource_version.unwrap_or_default()},
            "spec": {"replicas": replicas}});
        let path = path_of(K::OBJECT_KIND, key, "/scale");
        self.send::<Value>(Method::PUT, path, JSON, Some(&body)).await.map(drop)
    }

    async fn bind(&self, pod: &Key, uid: &str, node: &str) -> Result<(), ApiError> {
        let body = json!({"kind": "Binding", "apiVersion": "v1",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let path = path_of(Kind::Pod, pod, "/binding");
        self.send::<Value>(Method::POST, path, JSON, Some(&body)).await.map(drop)
    }

    async fn delete<K: Object>(&self, key: &Key, options: &DeleteOptions) -> Result<(), ApiError> {
        let propagation = options.propagation.map(|propagation| match propagation {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        });
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": propagation,
            "gracePeriodSeconds": options.grace_seconds,
            "preconditions": {"uid": options.uid, "resourceVersion": options.resource_version}});
        let path = path_of(K::OBJECT_KIND, key, "");
        self.send::<Value>(Method::DELETE, path, JSON, Some(&body)).await.map(drop)
    }

    fn note(&self, note: Note) {
        // Full is slow: an Event is not worth waiting for.
        if self.notes.try_send(note).is_err() {
            debug!("event dropped, the server is slow");
        }
    }
}

#[derive(Deserialize)]
struct Page<K> {
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_: Option<String>,
}

struct Watch<K> {
    remote: Remote,
    scope: Scope,
    /// Where to resume; `None` lists first.
    revision: Option<String>,
    events: Option<BoxStream<'static, Result<WatchEvent<K>, kube::Error>>>,
}

impl<K: Object> Watch<K> {
    async fn next<T>(&mut self, keep: impl Fn(K) -> T) -> Change<T> {
        loop {
            if self.revision.is_none() {
                match self.remote.pages(&self.scope, &keep).await {
                    Ok((revision, items)) => {
                        self.revision = Some(revision.to_string());
                        self.events = None;
                        return Change::Reset(items);
                    }
                    Err(error) => pause::<K>(&error.to_string()).await,
                }
                continue;
            }
            let Some(events) = &mut self.events else {
                self.connect().await;
                continue;
            };
            match events.next().await {
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    self.reached(&object);
                    return Change::Applied(keep(object));
                }
                Some(Ok(WatchEvent::Deleted(object))) => {
                    self.reached(&object);
                    return Change::Deleted(keep(object));
                }
                Some(Ok(WatchEvent::Bookmark(mark))) => {
                    self.revision = Some(mark.metadata.resource_version);
                }
                Some(Ok(WatchEvent::Error(status))) => {
                    debug!(kind = %K::OBJECT_KIND, message = status.message, "watch lost, listing again");
                    self.revision = None;
                }
                Some(Err(failure)) => {
                    self.events = None;
                    pause::<K>(&failure.to_string()).await;
                }
                None => self.events = None,
            }
        }
    }

    async fn connect(&mut self) {
        let path = format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            collection::<K>(&self.scope),
            self.revision.as_deref().unwrap_or_default()
        );
        let request = match Request::get(path).body(Vec::new()) {
            Ok(request) => request,
            Err(failure) => return pause::<K>(&failure.to_string()).await,
        };
        match self.remote.client.request_events::<K>(request).await.map_err(api_error) {
            Ok(events) => self.events = Some(events.boxed()),
            Err(error) if error.reason == Reason::Expired => self.revision = None,
            // The server's history is younger than ours: its data was made anew or restored.
            Err(error) if error.is_too_large_revision() => self.revision = None,
            Err(error) => pause::<K>(&error.to_string()).await,
        }
    }

    fn reached(&mut self, object: &K) {
        if let Some(version) = &object.metadata().resource_version {
            self.revision = Some(version.clone());
        }
    }
}

async fn pause<K: Object>(why: &str) {
    warn!(kind = %K::OBJECT_KIND, why, "watch interrupted, trying again");
    tokio::time::sleep(RETRY).await;
}

fn value_of<K: Object>(object: &K) -> Result<Value, ApiError> {
    serde_json::to_value(object)
        .map_err(|error| ApiError::internal(format!("the object does not serialise: {error}")))
}

/// The path of an object's part, or of its collection where the key has no name.
fn path_of(kind: Kind, key: &Key, part: &str) -> String {
    let row = kind.row();
    let mut path = if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    };
    if row.namespaced && !key.namespace.is_empty() {
        path.push_str(&format!("/namespaces/{}", encoded(&key.namespace)));
    }
    path.push_str(&format!("/{}", row.plural));
    if !key.name.is_empty() {
        path.push_str(&format!("/{}", encoded(&key.name)));
    }
    path + part
}

fn collection<K: Object>(scope: &Scope) -> String {
    let key = Key { namespace: scope.namespace.clone().unwrap_or_default(), name: String::new() };
    let mut path = path_of(K::OBJECT_KIND, &key, "?");
    for (name, value) in [("labelSelector", &scope.labels), ("fieldSelector", &scope.fields)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    path
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What the server said, or that it could not be reached.
fn api_error(error: kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) => of_status(*status),
        other => ApiError::new(
            Reason::ServiceUnavailable,
            format!("the API server does not answer: {other}"),
        ),
    }
}

fn of_status(status: Status) -> ApiError {
    let reason = Reason::of_wire(Some(&status.reason), status.code);
    let details = status
        .details
        .and_then(|details| serde_json::to_value(details).ok())
        .and_then(|details| serde_json::from_value::<StatusDetails>(details).ok());
    ApiError { reason, message: status.message, details: details.map(Box::new) }
}
