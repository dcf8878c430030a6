//! A watch over HTTP: one JSON line an event, `type` first. It begins with the state where the
//! request names no revision, resumes without gap or duplicate where it names one, sends bookmarks
//! that end transactions only, and says 410 where it cannot go on: as the HTTP status before the
//! first line, as an ERROR event after it.

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

/// # Errors
/// `Expired` below the compaction floor, `Timeout` for a revision that is not reached.
pub(crate) fn watch<S: Store>(
    api: &Api<S>,
    who: &Identity,
    kind: Kind,
    namespace: Option<&str>,
    query: Query,
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
    let mut watching = Watching {
        api: api.clone(),
        who: who.clone(),
        kind,
        namespace: namespace.map(str::to_owned),
        form,
        include: query.include,
        query,
        initial: VecDeque::new(),
        lines: VecDeque::new(),
        events: None,
        reached: resume.unwrap_or(0),
        told: 0,
        columns_sent: false,
        next_bookmark: Instant::now() + BOOKMARK,
        deadline,
        stop: api.tasks().stop().clone(),
        _open: api.metrics().watching(),
    };
    match resume {
        Some(revision) => watching.events = Some(api.changes(who, kind, Some(revision))?),
        None => watching.begin()?,
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

struct Watching<S: Store> {
    api: Api<S>,
    who: Identity,
    kind: Kind,
    namespace: Option<String>,
    form: Form,
    include: Include,
    query: Query,
    /// The state it begins with. A line is made of a record when it is sent: a client that does
    /// not read holds no copy of the store.
    initial: VecDeque<Arc<Record>>,
    lines: VecDeque<Bytes>,
    /// `None` after the last event: what is in `lines` is sent, then the stream ends.
    events: Option<BoxStream<'static, WatchItem>>,
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

impl<S: Store> Watching<S> {
    /// The state first, as ADDED events; with `sendInitialEvents` a bookmark says where it ends.
    fn begin(&mut self) -> Result<(), ApiError> {
        let everything = Query { selection: self.query.selection.clone(), ..Query::default() };
        let page = self.api.list(&self.who, self.kind, self.namespace.as_deref(), &everything)?;
        self.events = Some(self.api.changes(&self.who, self.kind, Some(page.revision))?);
        self.reached = page.revision;
        self.initial = page.items.into();
        if self.query.initial_events == Some(true) && self.query.bookmarks {
            let line = self.bookmark(true);
            self.lines.push_back(line);
        }
        Ok(())
    }

    /// Cancel safe: nothing is taken from the stream that is not in `lines` or answered.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(record) = self.initial.pop_front() {
                match self.line("ADDED", &record, false) {
                    Some(line) => return Some(line),
                    None => continue,
                }
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let last = self.deadline.checked_sub(LAST_BOOKMARK).unwrap_or(self.deadline);
            let bookmark_at = self.next_bookmark.min(last);
            let wants_bookmark = self.query.bookmarks && bookmark_at <= self.deadline;
            let events = self.events.as_mut()?;
            tokio::select! {
                biased;
                // Cancel safe: a cancelled token stays cancelled.
                () = self.stop.cancelled() => return None,
                // Cancel safe: StreamExt::next takes nothing before it is ready.
                item = events.next() => match item {
                    Some(item) => self.take(item),
                    None => return None,
                },
                // Cancel safe: a timer.
                () = tokio::time::sleep_until(bookmark_at), if wants_bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    if bookmark_at == last {
                        // No further one before the deadline.
                        self.next_bookmark = self.deadline + BOOKMARK;
                        self.query.bookmarks = false;
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

    fn take(&mut self, item: WatchItem) {
        match item {
            WatchItem::Event(event) => {
                if let Some(line) = self.event(&event) {
                    self.lines.push_back(line);
                }
                if event.ends_transaction {
                    self.reached = self.reached.max(event.record.revision);
                }
            }
            WatchItem::Progress(revision) => self.reached = self.reached.max(revision),
            WatchItem::Lost => {
                let error = ApiError::new(
                    Reason::Expired,
                    "too old resource version: the watch lagged behind and lost events, list again",
                );
                let line = wrapped("ERROR", status_value(&error, None).to_string().as_bytes());
                self.lines.push_back(line);
                self.events = None;
            }
        }
    }

    /// What the event is to this watch: an object that enters the selector is ADDED, one that
    /// leaves it DELETED.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let record = &event.record;
        if self.namespace.as_ref().is_some_and(|wanted| *wanted != record.key.namespace) {
            return None;
        }
        let selection = &self.query.selection;
        let is_in = event.change != ChangeType::Deleted && selects(selection, record);
        let before = match (&event.previous, event.change) {
            (Some(previous), _) => Some(previous),
            (None, ChangeType::Deleted) => Some(&record.header),
            (None, _) => None,
        };
        let was_in = event.change != ChangeType::Created
            && before.is_some_and(|header| {
                selection.matches(&record.key, &header.labels, &header.fields)
            });
        let kind = match (was_in, is_in) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        self.line(kind, record, true)
    }

    /// `None` for what this version cannot decode, which is logged and counted: an ERROR in its
    /// place would make the client list again, meet it again, and so on for ever.
    ///
    /// A live event's line is shared with the other watches; the state that a watch begins with is
    /// read by nobody else at the same time.
    fn line(&mut self, event: &'static str, record: &Arc<Record>, live: bool) -> Option<Bytes> {
        let columns = self.form == Form::Table && !std::mem::replace(&mut self.columns_sent, true);
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

    fn bookmark(&mut self, initial_end: bool) -> Bytes {
        self.told = self.reached;
        let mut meta = json!({
            "resourceVersion": self.reached.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Json => json!({
                "kind": self.kind.row().name,
                "apiVersion": self.kind.api_version(),
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

/// A `PartialObjectMetadata` of this metadata.
pub(crate) fn partial_meta(meta: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
}

fn wrapped(event: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend(b"{\"type\":\"");
    line.extend(event.as_bytes());
    line.extend(b"\",\"object\":");
    line.extend(object);
    line.extend(b"}\n");
    line.into()
}
