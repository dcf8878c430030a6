//! A watch over HTTP: one JSON line an event, `type` first. It begins with the state where the
//! request names no revision, resumes without gap or duplicate where it names one, sends bookmarks
//! that end transactions only, and says 410 where it cannot go on: as the HTTP status before the
//! first line, as an ERROR event after it.
//!
//! What is watched is a [`Watched`]: the objects of a stored kind ([`Stored`]), or what is made of
//! stored ones (`endpoints/watch.rs`). How a watch begins, waits, is bookmarked and ends is here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::access::Identity;
use crate::api::metrics::OpenWatch;
use crate::api::query::Query;
use crate::api::reply::{Form, json_reply, object_bytes, partial, status_value, table_of};
use crate::api::selector_text::Selection;
use crate::api::table::Include;
use crate::api::verbs::{Api, selects, too_large};
use crate::api::watch_lines::LineKey;
use crate::object::{ApiError, Kind, Reason};
use crate::store::{ChangeType, Event, Record, Store, WatchItem};

/// Between two bookmarks (`cacher.go`: about a minute).
const BOOKMARK: Duration = Duration::from_secs(60);
/// The last bookmark, before the deadline.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A watch without its own timeout ends after 30 to 60 minutes (`MinRequestTimeout`).
const SHORTEST: u64 = 1800;
/// A client may ask for any number of seconds; a clock cannot add all of them. Clients ask for 5 to
/// 10 minutes, and begin again whenever a watch ends.
const LONGEST: u64 = 86_400;

/// What is watched.
pub(crate) trait Watched: Send + 'static {
    /// What a line is made of when it is sent: a client that does not read holds no copy of the store.
    type Object: Send + 'static;

    /// Kind and version of its objects, which a bookmark is one of.
    fn names(&self) -> (&'static str, String);

    /// Behind a revision, or with the state there is.
    ///
    /// # Errors
    /// `Expired` for a revision that the history does not reach back to.
    fn begin(&self, resume: Option<u64>) -> Result<Begun<Self::Object>, ApiError>;

    /// `None` for what this version cannot decode, which is logged and counted: an ERROR in its place
    /// would make the client list again, meet it again, and so on for ever. `live` is a change, and no
    /// part of the state that the watch begins with; `columns` belong to a Table's first line.
    fn line(
        &self,
        event: &'static str,
        object: &Self::Object,
        live: bool,
        columns: bool,
    ) -> Option<Bytes>;
}

/// How a watch begins.
pub(crate) struct Begun<O> {
    pub initial: VecDeque<O>,
    /// Of the state; nothing is missing up to here.
    pub revision: u64,
    pub steps: BoxStream<'static, Step<O>>,
}

/// What happens in a watch.
pub(crate) enum Step<O> {
    /// `ADDED`, `MODIFIED` or `DELETED`
    Told(&'static str, O),
    /// Nothing is missing up to here, where a transaction ends.
    Reached(u64),
    /// History has passed it: it ends with a 410.
    Lost,
}

/// # Errors
/// Those of [`Watched::begin`]; `Timeout` for a revision that is not reached.
pub(crate) fn watch<S: Store, W: Watched>(
    api: &Api<S>,
    watched: W,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let current = api.store().revision();
    if let Some(asked) = query.revision.filter(|asked| *asked > current) {
        return Err(too_large(asked, current));
    }
    let named = query.revision.filter(|revision| *revision > 0);
    let from_state = query.initial_events.unwrap_or(named.is_none());
    let resume = (!from_state).then(|| named.unwrap_or(current));
    let seconds = query
        .timeout_seconds
        .unwrap_or_else(|| SHORTEST + u64::from(api.options().ids.below(1800)));
    let deadline = Instant::now() + Duration::from_secs(seconds.min(LONGEST));
    let open = api.metrics().watching();
    let Begun { initial, revision, steps } = watched.begin(resume)?;
    let mut watching = Watching {
        watched,
        form,
        bookmarks: query.bookmarks,
        initial,
        lines: VecDeque::new(),
        steps: Some(steps),
        reached: revision,
        told: 0,
        columns_sent: false,
        next_bookmark: Instant::now() + BOOKMARK,
        deadline,
        stop: api.tasks().stop().clone(),
        _open: open,
    };
    // With `sendInitialEvents` a bookmark says where the state ends.
    if resume.is_none() && query.initial_events == Some(true) && query.bookmarks {
        let line = watching.bookmark(true);
        watching.lines.push_back(line);
    }
    let lines = futures::stream::unfold(watching, |mut watching| async move {
        watching.next().await.map(|line| (Ok::<Bytes, Infallible>(line), watching))
    });
    let mut response = json_reply(StatusCode::OK, Body::from_stream(lines));
    let chunks = axum::http::HeaderValue::from_static("application/json;stream=watch");
    // Only negotiated forms name the stream; plain JSON stays plain, as everywhere in Kubernetes.
    if form != Form::Json {
        response.headers_mut().insert(axum::http::header::CONTENT_TYPE, chunks);
    }
    Ok(response)
}

struct Watching<W: Watched> {
    watched: W,
    form: Form,
    bookmarks: bool,
    /// The state it begins with.
    initial: VecDeque<W::Object>,
    lines: VecDeque<Bytes>,
    /// `None` after the last event: what is in `lines` is sent, then the stream ends.
    steps: Option<BoxStream<'static, Step<W::Object>>>,
    /// Up to here nothing is missing.
    reached: u64,
    /// The last bookmark's revision.
    told: u64,
    columns_sent: bool,
    next_bookmark: Instant,
    deadline: Instant,
    stop: CancellationToken,
    _open: OpenWatch,
}

impl<W: Watched> Watching<W> {
    /// Cancel safe: nothing is taken from the stream that is not in `lines` or answered.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(object) = self.initial.pop_front() {
                match self.line("ADDED", &object, false) {
                    Some(line) => return Some(line),
                    None => continue,
                }
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let last = self.deadline.checked_sub(LAST_BOOKMARK).unwrap_or(self.deadline);
            let bookmark_at = self.next_bookmark.min(last);
            let wants_bookmark = self.bookmarks && bookmark_at <= self.deadline;
            let steps = self.steps.as_mut()?;
            tokio::select! {
                biased;
                // Cancel safe: a cancelled token stays cancelled.
                () = self.stop.cancelled() => return None,
                // Cancel safe: StreamExt::next takes nothing before it is ready.
                step = steps.next() => match step {
                    Some(step) => self.take(step),
                    None => return None,
                },
                // Cancel safe: a timer.
                () = tokio::time::sleep_until(bookmark_at), if wants_bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    if bookmark_at == last {
                        // No further one before the deadline.
                        self.next_bookmark = self.deadline + BOOKMARK;
                        self.bookmarks = false;
                    }
                    if self.reached > self.told {
                        let line = self.bookmark(false);
                        self.lines.push_back(line);
                    }
                }
                // Cancel safe: a timer.
                () = tokio::time::sleep_until(self.deadline) => return None,
            }
        }
    }

    fn take(&mut self, step: Step<W::Object>) {
        match step {
            Step::Told(event, object) => {
                let line = self.line(event, &object, true);
                self.lines.extend(line);
            }
            Step::Reached(revision) => self.reached = self.reached.max(revision),
            Step::Lost => {
                let error = ApiError::new(
                    Reason::Expired,
                    "too old resource version: the watch lagged behind and lost events, list again",
                );
                let line = wrapped("ERROR", status_value(&error, None).to_string().as_bytes());
                self.lines.push_back(line);
                self.steps = None;
            }
        }
    }

    fn line(&mut self, event: &'static str, object: &W::Object, live: bool) -> Option<Bytes> {
        let columns = self.form == Form::Table && !std::mem::replace(&mut self.columns_sent, true);
        self.watched.line(event, object, live, columns)
    }

    fn bookmark(&mut self, initial_end: bool) -> Bytes {
        self.told = self.reached;
        let mut meta = json!({
            "resourceVersion": self.reached.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = self.watched.names();
        let object = match self.form {
            Form::Json => json!({
                "kind": kind,
                "apiVersion": version,
                "metadata": meta,
            })
            .to_string()
            .into_bytes(),
            Form::Metadata => partial_meta(&meta).to_string().into_bytes(),
            Form::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": self.reached.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": partial_meta(&meta)}],
            })
            .to_string()
            .into_bytes(),
        };
        wrapped("BOOKMARK", &object)
    }
}

/// The objects of a stored kind.
pub(crate) struct Stored<S: Store> {
    pub api: Api<S>,
    pub who: Identity,
    pub kind: Kind,
    pub namespace: Option<String>,
    pub selection: Selection,
    pub form: Form,
    pub include: Include,
}

impl<S: Store> Watched for Stored<S> {
    type Object = Arc<Record>;

    fn names(&self) -> (&'static str, String) {
        (self.kind.row().name, self.kind.api_version())
    }

    /// The state first, as ADDED events.
    fn begin(&self, resume: Option<u64>) -> Result<Begun<Arc<Record>>, ApiError> {
        let (revision, initial) = match resume {
            Some(revision) => (revision, VecDeque::new()),
            None => {
                let everything = Query { selection: self.selection.clone(), ..Query::default() };
                let namespace = self.namespace.as_deref();
                let page = self.api.list(&self.who, self.kind, namespace, &everything)?;
                (page.revision, page.items.into())
            }
        };
        let items = self.api.changes(&self.who, self.kind, Some(revision))?;
        let (namespace, selection) = (self.namespace.clone(), self.selection.clone());
        let steps = move |item| {
            let of = |event: &Event| told(namespace.as_deref(), &selection, event);
            futures::stream::iter(steps(item, of).into_iter().flatten())
        };
        Ok(Begun { initial, revision, steps: items.flat_map(steps).boxed() })
    }

    /// A live event's line is shared with the other watches; the state that a watch begins with is
    /// read by nobody else at the same time.
    fn line(
        &self,
        event: &'static str,
        record: &Arc<Record>,
        live: bool,
        columns: bool,
    ) -> Option<Bytes> {
        let metrics = self.api.metrics();
        let render = || {
            metrics.watch_line_rendered();
            self.rendered(event, record, columns)
        };
        metrics.watch_line();
        // A Secret is shown differently to different people.
        if !live || self.kind == Kind::Secret {
            return render();
        }
        let second = match self.form {
            Form::Table => self.api.now().as_second(),
            Form::Json | Form::Metadata => 0,
        };
        let (revision, form, include) = (record.revision, self.form, self.include);
        let key = LineKey { revision, event, form, include, columns, second };
        self.api.watch_lines().get(key, record.body.len(), render)
    }
}

impl<S: Store> Stored<S> {
    fn rendered(&self, event: &str, record: &Arc<Record>, columns: bool) -> Option<Bytes> {
        let object = match self.form {
            Form::Json => object_bytes(&self.api, &self.who, record),
            Form::Metadata => {
                object_bytes(&self.api, &self.who, record).and_then(|bytes| partial(&bytes))
            }
            Form::Table => {
                table_of(&self.api, &self.who, record, self.include, columns).map(Bytes::from)
            }
        };
        object.ok().map(|object| wrapped(event, &object))
    }
}

/// What an item of the store is to a watch.
fn steps(
    item: WatchItem,
    told: impl FnOnce(&Event) -> Option<&'static str>,
) -> [Option<Step<Arc<Record>>>; 2] {
    match item {
        WatchItem::Event(event) => {
            let told = told(&event).map(|name| Step::Told(name, event.record.clone()));
            [told, event.ends_transaction.then(|| Step::Reached(event.record.revision))]
        }
        WatchItem::Progress(revision) => [Some(Step::Reached(revision)), None],
        WatchItem::Lost => [Some(Step::Lost), None],
    }
}

/// What an event is to a watch: an object that enters the selector is ADDED, one that leaves it
/// DELETED.
fn told(namespace: Option<&str>, selection: &Selection, event: &Event) -> Option<&'static str> {
    let record = &event.record;
    if namespace.is_some_and(|wanted| *wanted != record.key.namespace) {
        return None;
    }
    let is_in = event.change != ChangeType::Deleted && selects(selection, record);
    let before = match (&event.previous, event.change) {
        (Some(previous), _) => Some(previous),
        (None, ChangeType::Deleted) => Some(&record.header),
        (None, _) => None,
    };
    let was_in = event.change != ChangeType::Created
        && before
            .is_some_and(|header| selection.matches(&record.key, &header.labels, &header.fields));
    match (was_in, is_in) {
        (false, true) => Some("ADDED"),
        (true, true) => Some("MODIFIED"),
        (true, false) => Some("DELETED"),
        (false, false) => None,
    }
}

/// A `PartialObjectMetadata` of this metadata.
pub(crate) fn partial_meta(meta: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
}

/// One line of a watch.
pub(crate) fn wrapped(event: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend(b"{\"type\":\"");
    line.extend(event.as_bytes());
    line.extend(b"\",\"object\":");
    line.extend(object);
    line.extend(b"}\n");
    line.into()
}
