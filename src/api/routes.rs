//! The outer skin: HTTP onto the verbs. One dispatcher reads the path and the method; what may not
//! be done is refused here, before a body is looked at.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use crate::api::access::{Decision, Identity, Part, Verb, decide};
use crate::api::admission::{Admit, decode_text};
use crate::api::compression::compressed;
use crate::api::document_text::Document;
use crate::api::gate::Session;
use crate::api::metrics::Asked;
use crate::api::negotiation::{fits, form, in_version};
use crate::api::query::{self, Query};
use crate::api::reply::{
    Form, error_reply, error_reply_continued, list_reply, record_reply, value_reply, written_reply,
};
use crate::api::request::{Target, nameable, named, place, target};
use crate::api::request_body::{
    PatchBody, applied_twice, change, delete_options, document, is_protobuf, whole, write_options,
};
use crate::api::reviews::{self, Review};
use crate::api::stream::opening;
use crate::api::table_cells::Tabular;
use crate::api::usage_reply::{self, Wanted};
use crate::api::verbs::Api;
use crate::api::warning_headers::{stored, told, warned};
use crate::api::watch_reply::Stored;
use crate::api::write::Deletion;
use crate::api::write_options::{WriteOptions, WriteVerb, says_dry_run};
use crate::api::{
    absent, discovery, drift_reply, endpoints, openapi_reply, subresources, watch_reply, webhook,
};
use crate::object::{ApiError, Key, Kind, Object, Reason};
use crate::store::Store;
use crate::with_kind;

/// One door for one identity.
struct Door<S: Store> {
    api: Api<S>,
    who: Identity,
}

impl<S: Store> Door<S> {
    /// The door as the gate's visitor has it. A router that was made for one identity stays that
    /// one's, and where there is no gate everybody is a reader.
    fn of(mut self, extensions: &Extensions) -> Self {
        if self.who == Identity::Reader
            && let Some(session) = extensions.get::<Session>()
        {
            self.who = session.who.clone();
        }
        self
    }
}

impl<S: Store> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), who: self.who.clone() }
    }
}

impl<S: Store> Api<S> {
    /// Everything that the listener serves: the Kubernetes API for whoever the gate found it to be,
    /// health, metrics, drift and the webhook. Merge the dashboard's router into it (it must have no
    /// fallback).
    pub fn router(&self) -> Router {
        self.router_as(Identity::Reader)
    }

    /// The same for another identity: a real `kube::Client` with every right, in tests.
    pub fn router_as(&self, who: Identity) -> Router {
        let door = Door { api: self.clone(), who };
        self.webhook_router()
            .route("/healthz", any(alive))
            .route("/livez", any(alive))
            .route("/readyz", any(ready::<S>))
            .route("/metrics", any(metrics::<S>))
            .route("/api/v1/drift", any(drift::<S>))
            .route("/api/v1/configuration", any(configuration::<S>))
            .fallback(dispatch::<S>)
            .with_state(door)
    }

    /// The webhook and nothing else: what a public listener serves.
    pub fn webhook_router<T: Clone + Send + Sync + 'static>(&self) -> Router<T> {
        let api = self.clone();
        Router::new().route(
            "/webhook/{source}",
            any(move |path: axum::extract::Path<String>, request: Request| {
                let api = api.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    webhook::deliver(&api, &path.0, &parts.method, &parts.headers, body).await
                }
            }),
        )
    }
}

async fn alive() -> &'static str {
    "ok"
}

async fn ready<S: Store>(State(door): State<Door<S>>) -> Response {
    let (well, text) = door.api.beats().report();
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

async fn metrics<S: Store>(State(door): State<Door<S>>) -> Response {
    match door.api.metrics_text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => error_reply(&error),
    }
}

async fn drift<S: Store>(State(door): State<Door<S>>, request: Request) -> Response {
    let door = door.of(request.extensions());
    if request.method() != Method::GET {
        return error_reply(&refuse_method(&door));
    }
    value_reply(StatusCode::OK, &drift_reply::drifts(&door.api, &door.who))
}

/// What admission decides with, so that a plan made elsewhere decides the same.
async fn configuration<S: Store>(State(door): State<Door<S>>, request: Request) -> Response {
    let door = door.of(request.extensions());
    if request.method() != Method::GET {
        return error_reply(&refuse_method(&door));
    }
    let options = door.api.options();
    let ports = &options.node_ports;
    let ranges = json!({
        "serviceCidr": options.service_range.to_string(),
        "nodePorts": format!("{}-{}", ports.start(), ports.end()),
        "allow": options.privileges.written(),
    });
    value_reply(StatusCode::OK, &ranges)
}

/// 403 with the sentence for who may change nothing anyway, else 405.
fn refuse_method<S: Store>(door: &Door<S>) -> ApiError {
    if door.who.only_reads() { door.api.through_git() } else { method_not_allowed() }
}

async fn dispatch<S: Store>(State(door): State<Door<S>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let door = door.of(&parts.extensions);
    // Until the answer is there.
    parts.extensions.insert(Arc::new(door.api.large_bodies().turn()));
    let found = target(parts.uri.path());
    let asked = Asked::of(&parts.method, found.as_ref(), &parts.uri);
    let begun = Instant::now();
    let response = in_time(&door, found, &parts, body).await;
    let response = response.unwrap_or_else(|error| error_reply(&error));
    door.api.metrics().answered(asked, response.status(), begun.elapsed());
    let response = in_version(&parts.headers, response).await;
    match parts.method {
        Method::GET => compressed(&parts.headers, response),
        _ => response,
    }
}

/// The answer, within the time that the request gives itself. A watch or a log has begun by then, and
/// goes on.
async fn in_time<S: Store>(
    door: &Door<S>,
    found: Option<Target>,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    refuse_impersonation(&parts.headers, &door.who)?;
    let time = query::request_time(parts.uri.query().unwrap_or_default())?;
    // Boxed: it holds the ways of all kinds and verbs at once.
    let answer = tokio::time::timeout(time, Box::pin(answer(door, found, parts, body)));
    answer.await.map_err(|_| {
        let words = "Timeout: request did not complete within the allotted timeout";
        ApiError::new(Reason::Timeout, words)
    })
}

/// Who asks as somebody else would be answered for himself: `kubectl auth can-i --as` would lie.
fn refuse_impersonation(headers: &HeaderMap, who: &Identity) -> Result<(), ApiError> {
    let Some(user) = headers.get("impersonate-user") else { return Ok(()) };
    Err(ApiError::new(
        Reason::Forbidden,
        format!(
            "users {:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.to_str().unwrap_or_default(),
            who.name()
        ),
    ))
}

async fn answer<S: Store>(
    door: &Door<S>,
    found: Option<Target>,
    parts: &Parts,
    body: Body,
) -> Response {
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    match found {
        None => match reviews::at(parts.uri.path()) {
            Some((review, version)) => reviewed(door, review, version, parts, body)
                .await
                .unwrap_or_else(|error| error_reply(&error)),
            None => match usage_reply::wanted(parts.uri.path()) {
                Some(wanted) => measured(door, wanted, parts).await,
                None => documents(parts),
            },
        },
        Some(Target::Unknown) => match endpoints::wanted(parts.uri.path()) {
            Some(wanted) if reads => {
                let answer = endpoints::answer(&door.api, &door.who, wanted, parts).await;
                answer.unwrap_or_else(|error| failed::<S>(&error, parts))
            }
            Some(_) => error_reply(&refuse_method(door)),
            None => match absent::wanted(parts.uri.path()).filter(|_| reads) {
                Some(wanted) => absent::answer(&door.api, wanted, parts)
                    .and_then(|list| list.ok_or_else(no_such_resource))
                    .unwrap_or_else(|error| error_reply(&error)),
                None => error_reply(&no_such_resource()),
            },
        },
        // Only pods have these parts.
        Some(Target::Object { key, part, .. }) if part.is_stream() => {
            let opened = opening::open(&door.api, &door.who, &key, part, parts).await;
            opened.unwrap_or_else(|error| error_reply(&error))
        }
        // Before the body: what is not read cannot change anything.
        Some(target)
            if !reads
                && door.who.only_reads()
                && !is_beside_git(&target)
                && !may_be_a_try(parts) =>
        {
            error_reply(&door.api.through_git())
        }
        Some(target) => {
            if let Decision::Deny(error) = early(door, &target, parts) {
                return error_reply(&error);
            }
            let secrets = secrets_in_clear(door, &target, parts);
            match serve(door, target, parts, body).await {
                Ok(response) => {
                    if let Some((session, target)) = secrets {
                        door.api.note_secrets_read(&session, &target);
                    }
                    response
                }
                Err(error) => failed::<S>(&error, parts),
            }
        }
    }
}

/// A failed request's answer; with a list that has expired, the token that the rest is got with.
fn failed<S: Store>(error: &ApiError, parts: &Parts) -> Response {
    let asked = parts.uri.query().unwrap_or_default();
    let expired = query::continued(asked).filter(|_| error.reason == Reason::Expired);
    let fresh = expired.map(|place| Api::<S>::fresh_token(&place));
    error_reply_continued(error, fresh.as_deref())
}

/// What the URL and the method alone decide about a write: its body is not read in vain. Who only
/// reads was refused already; a collection names no object yet, the verbs decide about that one.
fn early<S: Store>(door: &Door<S>, target: &Target, parts: &Parts) -> Decision {
    let verb = match parts.method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => return Decision::Allow,
    };
    match target {
        Target::Object { kind, key, part }
            if !door.who.only_reads() || (part.is_beside_git() && !may_be_a_try(parts)) =>
        {
            decide(&door.who, verb, *kind, *part, key)
        }
        _ => Decision::Allow,
    }
}

fn is_beside_git(target: &Target) -> bool {
    matches!(target, Target::Object { part, .. } if part.is_beside_git())
}

/// Whether an operator is about to read Secrets, and which.
fn secrets_in_clear<S: Store>(
    door: &Door<S>,
    target: &Target,
    parts: &Parts,
) -> Option<(Session, Target)> {
    let (Target::Object { kind, .. } | Target::Collection { kind, .. }) = target else {
        return None;
    };
    let uses = door.who.uses_operator_rights(*kind, Part::Whole);
    let session = parts.extensions.get::<Session>().filter(|_| uses)?;
    Some((session.clone(), target.clone()))
}

/// Whether a write may turn out to be a dry run. A DELETE says it in its body (kubectl does): the verb
/// decides then.
fn may_be_a_try(parts: &Parts) -> bool {
    parts.method == Method::DELETE
        || says_dry_run(&query::pairs(parts.uri.query().unwrap_or_default()))
}

async fn measured<S: Store>(door: &Door<S>, wanted: Wanted, parts: &Parts) -> Response {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return error_reply(&refuse_method(door));
    }
    let answer = usage_reply::answer(&door.api, &door.who, wanted, parts).await;
    answer.unwrap_or_else(|error| error_reply(&error))
}

/// A review changes nothing, so that everybody may ask; it is the one POST whose body may be protobuf,
/// which kubectl sends from 1.32 on.
async fn reviewed<S: Store>(
    door: &Door<S>,
    review: Review,
    version: &str,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    if parts.method != Method::POST {
        return Err(method_not_allowed());
    }
    let spec = if is_protobuf(&parts.headers) {
        let read = review.spec_of_protobuf(&whole(parts, body).await?);
        read.map_err(|problem| ApiError::bad_request(problem.to_string()))?
    } else {
        let mut asked = document(parts, body).await?.value;
        asked.get_mut("spec").map(Value::take).unwrap_or_default()
    };
    let refusal = door.api.through_git().message;
    let answer = review.answer(version, &spec, &door.who, &refusal)?;
    Ok(value_reply(StatusCode::CREATED, &answer))
}

/// Discovery, version, OpenAPI; everything else is not there, in the reference server's plain text.
fn documents(parts: &Parts) -> Response {
    let accept: Vec<&str> = parts
        .headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let (path, accept) = (parts.uri.path(), accept.join(","));
    let query = parts.uri.query().unwrap_or_default();
    if let Some(response) = openapi_reply::answer(path, query, &accept) {
        return response;
    }
    match discovery::answer(path, &accept) {
        Some((kind, value)) => {
            let mut response = value_reply(StatusCode::OK, &value);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
            response
        }
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}

async fn serve<S: Store>(
    door: &Door<S>,
    target: Target,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let pairs = query::pairs(parts.uri.query().unwrap_or_default());
    if let Target::Object { key, .. } = &target {
        nameable(key)?;
    }
    match target {
        Target::Collection { kind, namespace } => {
            let query = Query::parse(kind, &pairs)?;
            collection(door, kind, namespace, query, parts, body).await
        }
        Target::Object { kind, key, part: Part::Log } if parts.method == Method::GET => {
            debug_assert_eq!(kind, Kind::Pod, "only pods have logs");
            subresources::log(&door.api, &door.who, key, &pairs).await
        }
        Target::Object { kind, key, part } => {
            let query = Query::parse(kind, &pairs)?;
            with_kind!(kind, K => one::<S, K>(door, key, part, query, parts, body).await)
        }
        Target::Unknown => Err(no_such_resource()),
    }
}

async fn collection<S: Store>(
    door: &Door<S>,
    kind: Kind,
    namespace: Option<String>,
    query: Query,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let (api, who) = (&door.api, &door.who);
    let form = form(&parts.headers)?;
    match parts.method {
        Method::GET | Method::HEAD if query.watch => watch(door, kind, namespace, query, form),
        Method::GET | Method::HEAD => {
            fits(&parts.headers, kind, true)?;
            let page = api.list(who, kind, namespace.as_deref(), &query)?;
            list_reply(api, who, kind, &page, form, query.include).await
        }
        Method::POST => {
            let options = write_options(parts, WriteVerb::Create)?;
            let document = document(parts, body).await?;
            with_kind!(kind, K => {
                create::<S, K>(door, namespace, &options, form, &document).await
            })
        }
        Method::DELETE if kind != discovery::NOT_AT_ONCE => {
            let options = delete_options(&query, parts, body).await?;
            if door.who.only_reads() && !options.1 {
                return Err(api.through_git());
            }
            let page = api.list(who, kind, namespace.as_deref(), &query)?;
            for record in &page.items {
                let gone = with_kind!(kind, K => {
                    api.delete::<K>(who, &record.key, &options.0, options.1).await.map(drop)
                });
                match gone {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            list_reply(api, who, kind, &page, form, query.include).await
        }
        _ => Err(method_not_allowed()),
    }
}

fn watch<S: Store>(
    door: &Door<S>,
    kind: Kind,
    namespace: Option<String>,
    query: Query,
    form: Form,
) -> Result<Response, ApiError> {
    let (api, who) = (door.api.clone(), door.who.clone());
    let (selection, include) = (query.selection.clone(), query.include);
    let stored = Stored { api, who, kind, namespace, selection, form, include };
    watch_reply::watch(&door.api, stored, &query, form)
}

async fn create<S: Store, K: Admit + Tabular>(
    door: &Door<S>,
    namespace: Option<String>,
    options: &WriteOptions,
    form: Form,
    document: &Document,
) -> Result<Response, ApiError> {
    let decoded = decode_text::<K>(&document.value, &document.twice, options.validation)?;
    let mut object = decoded.object;
    if K::OBJECT_KIND.row().namespaced {
        let Some(namespace) = namespace else { return Err(method_not_allowed()) };
        place(&mut object, &namespace)?;
    }
    let object = door.api.create(&door.who, &object, options).await?;
    let by_policy = door.api.policy_warnings(&*object, None);
    let told = [decoded.warnings, object.warnings(None), by_policy].concat();
    let reply = written_reply(&door.api, StatusCode::CREATED, object, form)?;
    Ok(warned(reply, &told))
}

async fn one<S: Store, K: Admit + Tabular>(
    door: &Door<S>,
    key: Key,
    part: Part,
    query: Query,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let (api, who, kind) = (&door.api, &door.who, K::OBJECT_KIND);
    let form = form(&parts.headers)?;
    if part == Part::Scale {
        return subresources::scale::<S, K>(api, who, &key, parts, body).await;
    }
    match (&parts.method, part) {
        (&Method::GET | &Method::HEAD, Part::Whole) if query.watch => {
            let mut query = query;
            query.selection.only(&key.name);
            let namespace = kind.row().namespaced.then_some(key.namespace);
            watch(door, kind, namespace, query, form)
        }
        (&Method::GET | &Method::HEAD, Part::Whole | Part::Status | Part::EphemeralContainers) => {
            fits(&parts.headers, kind, false)?;
            let record = api.get(who, kind, &key)?;
            record_reply(api, who, &record, form, query.include)
        }
        (&Method::PUT, Part::Whole | Part::Status | Part::Finalize | Part::EphemeralContainers) => {
            let options = write_options(parts, WriteVerb::Update)?;
            let document = document(parts, body).await?;
            let decoded = decode_text::<K>(&document.value, &document.twice, options.validation)?;
            let object = named(decoded.object, &key)?;
            let old = stored::<S, K>(api, part, &key);
            let object = api.update(who, part, &object, &options).await?;
            api.note_ephemeral_containers((parts, options.dry_run), part, old.as_deref(), &*object);
            let by_admission = told(api, part, &*object, old.as_deref());
            let told = [decoded.warnings, by_admission].concat();
            let reply = written_reply(api, StatusCode::OK, object, form)?;
            Ok(warned(reply, &told))
        }
        (&Method::PATCH, Part::Whole | Part::Status | Part::EphemeralContainers) => {
            let (change, options) = change(parts, body).await?;
            let old = stored::<S, K>(api, part, &key);
            let written = match &change {
                PatchBody::Patch(patch, twice) => {
                    let written = api.patch::<K>(who, part, &key, patch, twice, &options).await;
                    written.map(|(object, told)| (StatusCode::OK, object, told))
                }
                PatchBody::Apply(document) => {
                    let told = applied_twice(document, options.validation)?;
                    let applied = api.apply::<K>(who, part, &key, &document.value, &options).await;
                    applied.map(|applied| {
                        let made = applied.created;
                        let code = if made { StatusCode::CREATED } else { StatusCode::OK };
                        (code, applied.object, told)
                    })
                }
            };
            // A dry run meets hashes only: its errors may quote what they complain about.
            let (code, object, warnings) = written.map_err(|error| match options.dry_run {
                true => error,
                false => api.scrubbed(who, kind, error),
            })?;
            api.note_ephemeral_containers((parts, options.dry_run), part, old.as_deref(), &*object);
            let warnings = [warnings, told(api, part, &*object, old.as_deref())].concat();
            Ok(warned(written_reply(api, code, object, form)?, &warnings))
        }
        (&Method::DELETE, Part::Whole) => {
            let (options, dry_run) = delete_options(&query, parts, body).await?;
            match api.delete::<K>(who, &key, &options, dry_run).await? {
                Deletion::Going(object) => written_reply(api, StatusCode::OK, object, form),
                Deletion::Removed(object) => Ok(value_reply(StatusCode::OK, &removed(&*object))),
            }
        }
        (&Method::POST, Part::Binding) => {
            let options = write_options(parts, WriteVerb::Create)?;
            let document = document(parts, body).await?;
            subresources::binding(api, who, &key, &document.value, options.dry_run).await
        }
        _ => Err(method_not_allowed()),
    }
}

fn removed<K: Object>(object: &K) -> Value {
    let row = K::OBJECT_KIND.row();
    let mut details = json!({
        "name": object.metadata().name,
        "kind": row.plural,
        "uid": object.metadata().uid,
    });
    if !row.group.is_empty() {
        details["group"] = json!(row.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details})
}

pub(crate) fn method_not_allowed() -> ApiError {
    plain(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

pub(crate) fn no_such_resource() -> ApiError {
    plain(Reason::NotFound, "the server could not find the requested resource")
}

/// An error of the request itself: the reference server's details are there and empty.
pub(crate) fn plain(reason: Reason, message: &str) -> ApiError {
    let mut error = ApiError::new(reason, message);
    error.details = Some(Box::default());
    error
}
