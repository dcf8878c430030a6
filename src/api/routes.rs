//! The outer skin: HTTP onto the verbs. One dispatcher reads the path and the method; who only
//! reads is refused here, before a body is looked at.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use crate::api::access::{Identity, Part};
use crate::api::admission::{Admit, decode_body};
use crate::api::compression::compressed;
use crate::api::metrics::Asked;
use crate::api::query::{self, Query};
use crate::api::reply::{
    Form, error_reply, error_reply_continued, form, list_reply, record_reply, value_reply,
    written_reply,
};
use crate::api::request::{Target, target};
use crate::api::reviews::{self, Review};
use crate::api::table_cells::Tabular;
use crate::api::usage_reply::{self, Wanted};
use crate::api::verbs::Api;
use crate::api::write::Deletion;
use crate::api::{
    discovery, drift_reply, endpoints_reply, openapi_reply, subresources, watch_reply, webhook,
};
use crate::object::{ApiError, DeleteOptions, Key, Kind, Object, Patch, Reason};
use crate::store::Store;
use crate::with_kind;

/// `MaxRequestBodyBytes` of the reference server: 3 MiB.
const LARGEST_BODY: usize = 3 * 1024 * 1024;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// For a whole body, however slowly it comes.
const BODY_TIME: Duration = Duration::from_secs(60);

/// One door for one identity.
struct Door<S: Store> {
    api: Api<S>,
    who: Identity,
}

impl<S: Store> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), who: self.who.clone() }
    }
}

impl<S: Store> Api<S> {
    /// Everything that the local listener serves: the Kubernetes API for readers, health, metrics,
    /// drift and the webhook. Merge the dashboard's router into it (it must have no fallback).
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
    if request.method() != Method::GET {
        return error_reply(&refuse_method(&door));
    }
    value_reply(StatusCode::OK, &drift_reply::drifts(&door.api, &door.who))
}

/// What admission decides with, so that a plan made elsewhere decides the same.
async fn configuration<S: Store>(State(door): State<Door<S>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return error_reply(&refuse_method(&door));
    }
    let options = door.api.options();
    let ports = &options.node_ports;
    let ranges = json!({
        "serviceCidr": options.service_range.to_string(),
        "nodePorts": format!("{}-{}", ports.start(), ports.end()),
    });
    value_reply(StatusCode::OK, &ranges)
}

/// 403 with the sentence for who may change nothing anyway, else 405.
fn refuse_method<S: Store>(door: &Door<S>) -> ApiError {
    if door.who.only_reads() { door.api.through_git() } else { method_not_allowed() }
}

async fn dispatch<S: Store>(State(door): State<Door<S>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let found = target(parts.uri.path());
    let asked = Asked::of(&parts.method, found.as_ref(), parts.uri.query());
    let begun = Instant::now();
    let response = in_time(&door, found, &parts, body).await;
    let response = response.unwrap_or_else(|error| error_reply(&error));
    door.api.metrics().answered(asked, response.status(), begun.elapsed());
    match parts.method {
        Method::GET => compressed(&parts.headers, response).await,
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
    let answer = tokio::time::timeout(time, answer(door, found, parts, body));
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
        Some(Target::Unknown) => match endpoints_reply::wanted(parts.uri.path()) {
            Some(service) if reads => endpoints_reply::answer(&door.api, &door.who, &service)
                .unwrap_or_else(|error| error_reply(&error)),
            Some(_) => error_reply(&refuse_method(door)),
            None => error_reply(&no_such_resource()),
        },
        // Before the body: what is not read cannot change anything.
        Some(_) if !reads && door.who.only_reads() => error_reply(&door.api.through_git()),
        Some(target) => {
            let continued = query::continued(parts.uri.query().unwrap_or_default());
            match serve(door, target, parts, body).await {
                Ok(response) => response,
                Err(error) if error.reason == Reason::Expired && continued.is_some() => {
                    let fresh = continued.map(|place| Api::<S>::fresh_token(&place));
                    error_reply_continued(&error, fresh.as_deref())
                }
                Err(error) => error_reply(&error),
            }
        }
    }
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
    let spec = if media_type(&parts.headers) == PROTOBUF {
        let read = review.spec_of_protobuf(&whole(body).await?);
        read.map_err(|problem| ApiError::bad_request(problem.to_string()))?
    } else {
        let mut asked = document(&parts.headers, body).await?;
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
        Method::GET | Method::HEAD if query.watch => {
            watch_reply::watch(api, who, kind, namespace.as_deref(), query, form)
        }
        Method::GET | Method::HEAD => {
            let page = api.list(who, kind, namespace.as_deref(), &query)?;
            list_reply(api, who, kind, &page, form, query.include)
        }
        Method::POST => {
            let document = document(&parts.headers, body).await?;
            with_kind!(kind, K => {
                create::<S, K>(door, namespace, &query, form, &document).await
            })
        }
        Method::DELETE => {
            let options = delete_options(&query, body).await?;
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
            list_reply(api, who, kind, &page, form, query.include)
        }
        _ => Err(method_not_allowed()),
    }
}

async fn create<S: Store, K: Admit + Tabular>(
    door: &Door<S>,
    namespace: Option<String>,
    query: &Query,
    form: Form,
    document: &Value,
) -> Result<Response, ApiError> {
    let decoded = decode_body::<K>(document, query.validation)?;
    let mut object = decoded.object;
    if K::OBJECT_KIND.row().namespaced {
        place(&mut object, namespace.as_deref())?;
    }
    let object = door.api.create(&door.who, &object, query.dry_run).await?;
    let reply = written_reply(&door.api, &door.who, StatusCode::CREATED, object, form)?;
    Ok(warned(reply, &decoded.warnings))
}

/// The namespace of the URL, which the object may repeat and not contradict.
fn place<K: Object>(object: &mut K, namespace: Option<&str>) -> Result<(), ApiError> {
    let Some(namespace) = namespace else { return Err(method_not_allowed()) };
    let own = object.metadata().namespace.as_deref().unwrap_or_default();
    if !own.is_empty() && own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object.metadata_mut().namespace = Some(namespace.to_owned());
    Ok(())
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
        return subresources::scale::<S, K>(api, who, &key, &query, parts, body).await;
    }
    match (&parts.method, part) {
        (&Method::GET | &Method::HEAD, Part::Whole) if query.watch => {
            let mut query = query;
            query.selection.only(&key.name);
            let namespace = kind.row().namespaced.then_some(key.namespace.as_str());
            watch_reply::watch(api, who, kind, namespace, query, form)
        }
        (&Method::GET | &Method::HEAD, Part::Whole | Part::Status) => {
            let record = api.get(who, kind, &key)?;
            record_reply(api, who, &record, form, query.include)
        }
        (&Method::PUT, Part::Whole | Part::Status | Part::Finalize) => {
            let document = document(&parts.headers, body).await?;
            let decoded = decode_body::<K>(&document, query.validation)?;
            let object = named(decoded.object, &key)?;
            let object = api.update(who, part, &object, query.dry_run).await?;
            let reply = written_reply(api, who, StatusCode::OK, object, form)?;
            Ok(warned(reply, &decoded.warnings))
        }
        (&Method::PATCH, Part::Whole | Part::Status) => {
            let patch = patch(&parts.headers, body).await?;
            let written =
                api.patch::<K>(who, part, &key, &patch, query.validation, query.dry_run).await;
            let (object, warnings) = written.map_err(|error| api.scrubbed(who, kind, error))?;
            Ok(warned(written_reply(api, who, StatusCode::OK, object, form)?, &warnings))
        }
        (&Method::DELETE, Part::Whole) => {
            let (options, dry_run) = delete_options(&query, body).await?;
            match api.delete::<K>(who, &key, &options, dry_run).await? {
                Deletion::Going(object) => written_reply(api, who, StatusCode::OK, object, form),
                Deletion::Removed(object) => Ok(value_reply(StatusCode::OK, &removed(&*object))),
            }
        }
        (&Method::POST, Part::Binding) => {
            let document = document(&parts.headers, body).await?;
            subresources::binding(api, who, &key, &document, query.dry_run).await
        }
        _ => Err(method_not_allowed()),
    }
}

/// A PUT names the object of its URL, or leaves the name out.
fn named<K: Object>(mut object: K, key: &Key) -> Result<K, ApiError> {
    let meta = object.metadata_mut();
    let own = meta.name.get_or_insert_with(|| key.name.clone());
    if *own != key.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({})",
            key.name
        )));
    }
    if K::OBJECT_KIND.row().namespaced {
        place(&mut object, Some(&key.namespace))?;
    }
    Ok(object)
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

/// A body, whole, within its limit and its time.
///
/// # Errors
/// `RequestEntityTooLarge`, or `BadRequest` for one that ended early or never.
pub(crate) async fn whole(body: Body) -> Result<Vec<u8>, ApiError> {
    let reading = Limited::new(body, LARGEST_BODY).collect();
    let read = tokio::time::timeout(BODY_TIME, reading).await.map_err(|_| {
        ApiError::bad_request(format!("the body took longer than {} s", BODY_TIME.as_secs()))
    })?;
    let collected = read.map_err(|failure| {
        if failure.is::<http_body_util::LengthLimitError>() {
            ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {LARGEST_BODY}"),
            )
        } else {
            ApiError::bad_request("the body ended early")
        }
    })?;
    Ok(collected.to_bytes().to_vec())
}

/// A JSON body.
///
/// # Errors
/// `UnsupportedMediaType` for another content type, `BadRequest` for what is no JSON.
pub(crate) async fn document(headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    match media_type(headers) {
        "" | "application/json" => {}
        PROTOBUF => {
            return Err(plain(
                Reason::UnsupportedMediaType,
                "protobuf is read in the bodies of kubectl auth only: send application/json",
            ));
        }
        _ => return Err(unsupported_media()),
    }
    let bytes = whole(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is no JSON document: {error}")))
}

/// A patch of the kind that its content type names.
///
/// # Errors
/// As [`document`].
pub(crate) async fn patch(headers: &HeaderMap, body: Body) -> Result<Patch, ApiError> {
    let make = match media_type(headers) {
        "application/merge-patch+json" => Patch::Merge,
        "application/json-patch+json" => Patch::Json,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        _ => return Err(unsupported_media()),
    };
    let bytes = whole(body).await?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    Ok(make(value))
}

fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .map_or("", str::trim)
}

fn unsupported_media() -> ApiError {
    plain(Reason::UnsupportedMediaType, "415: Unsupported Media Type")
}

pub(crate) fn method_not_allowed() -> ApiError {
    plain(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

fn no_such_resource() -> ApiError {
    plain(Reason::NotFound, "the server could not find the requested resource")
}

/// An error of the request itself: the reference server's details are there and empty.
fn plain(reason: Reason, message: &str) -> ApiError {
    let mut error = ApiError::new(reason, message);
    error.details = Some(Box::default());
    error
}

/// A DELETE's options, from its body or its query; the body wins, as in the reference server.
async fn delete_options(query: &Query, body: Body) -> Result<(DeleteOptions, bool), ApiError> {
    let bytes = whole(body).await?;
    let document: Value = if bytes.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::bad_request(format!("the delete options are no JSON: {error}"))
        })?
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut propagation = query::propagation(document["propagationPolicy"].as_str())?;
    if document["orphanDependents"] == json!(true) {
        propagation = Some(crate::object::Propagation::Orphan);
    }
    let options = DeleteOptions {
        uid: text(&document["preconditions"]["uid"]),
        resource_version: text(&document["preconditions"]["resourceVersion"]),
        propagation: propagation.or(query.propagation),
        grace_seconds: document["gracePeriodSeconds"].as_i64().or(query.grace_seconds),
    };
    let dry = document["dryRun"].as_array().is_some_and(|all| !all.is_empty());
    Ok((options, dry || query.dry_run))
}

/// `Warning: 299 - "unknown field \"dta\""`, one header a warning.
fn warned(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
