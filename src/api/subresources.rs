//! The parts of an object with verbs of their own: scale, binding, log.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::{Binding, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde_json::{Value, json};
use std::any::Any;

use crate::api::access::{Identity, Part};
use crate::api::admission::patch as patches;
use crate::api::admission::{Admit, FieldValidation};
use crate::api::negotiation::form;
use crate::api::query::{self, Query};
use crate::api::reply::{Form, json_reply, partial, value_reply};
use crate::api::request_body::{PatchBody, applied_twice, change, document, write_options};
use crate::api::routes::method_not_allowed;
use crate::api::table::{of_rows, row};
use crate::api::table_cells::{age, name, selector_text};
use crate::api::table_columns::SCALE;
use crate::api::verbs::Api;
use crate::api::warning_headers::warned;
use crate::api::write_options::WriteVerb;
use crate::object::decode::decode;
use crate::object::ephemeral_container::every_name;
use crate::object::ports::LogQuery;
use crate::object::{ApiError, Key, Kind, Object, Reason};
use crate::store::Store;

/// GET, PUT and PATCH of `/scale`.
///
/// # Errors
/// As the verbs'; `BadRequest` for a body that is no Scale.
pub(crate) async fn scale<S: Store, K: Admit>(
    api: &Api<S>,
    who: &Identity,
    key: &Key,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let current = || -> Result<Scale, ApiError> {
        let record = api.get(who, K::OBJECT_KIND, key)?;
        scale_of(&*api.typed::<K>(&record)?)
    };
    let (wanted, options) = match parts.method {
        Method::GET | Method::HEAD => return scale_reply(api, parts, &current()?),
        Method::PUT => {
            let options = write_options(parts, WriteVerb::Update)?;
            (document(parts, body).await?.value, options)
        }
        Method::PATCH => {
            let (change, options) = change(parts, body).await?;
            let patch = match change {
                PatchBody::Patch(patch, _) => patch,
                PatchBody::Apply(scale) => {
                    let told = applied_twice(&scale, options.validation)?;
                    let config = scaled::<K>(key, &scale.value)?;
                    let applied = api.apply::<K>(who, Part::Scale, key, &config, &options).await?;
                    let reply = scale_reply(api, parts, &scale_of(&*applied.object)?)?;
                    return Ok(warned(reply, &told));
                }
            };
            let before = serde_json::to_value(current()?)
                .map_err(|error| ApiError::internal(format!("the scale: {error}")))?;
            let mut after = patches::apply(K::OBJECT_KIND, &before, &patch)?;
            // Only a version that the patch itself names is a precondition.
            if after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"] {
                after["metadata"]["resourceVersion"] = Value::Null;
            }
            (after, options)
        }
        _ => return Err(method_not_allowed()),
    };
    let (wanted, told) = read_scale(&wanted, options.validation)?;
    let replicas = wanted.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    let version = wanted.metadata.resource_version.as_deref();
    let object = api.scale::<K>(who, key, replicas, version, &options).await?;
    Ok(warned(scale_reply(api, parts, &scale_of(&*object)?)?, &told))
}

/// A Scale, and what it has that a Scale has not, as warnings.
///
/// # Errors
/// `BadRequest` for what is no Scale, and for unknown fields under `fieldValidation=Strict`.
fn read_scale(
    value: &Value,
    validation: FieldValidation,
) -> Result<(Scale, Vec<String>), ApiError> {
    let decoded = decode::<Scale>(value).map_err(|faults| {
        let first = faults.first().map(|fault| fault.path.clone()).unwrap_or_default();
        ApiError::bad_request(format!("the body is no Scale: {first} cannot be decoded"))
    })?;
    let told: Vec<String> =
        decoded.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Strict if !told.is_empty() => Err(ApiError::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: strict decoding error: {}",
            told.join(", ")
        ))),
        FieldValidation::Ignore => Ok((decoded.object, Vec::new())),
        FieldValidation::Strict | FieldValidation::Warn => Ok((decoded.object, told)),
    }
}

/// What an applied Scale says of the object that it scales.
///
/// # Errors
/// `BadRequest` for what is no Scale or names another object.
fn scaled<K: Admit>(key: &Key, scale: &Value) -> Result<Value, ApiError> {
    let word = |field: &str| scale[field].as_str().unwrap_or_default();
    if (word("apiVersion"), word("kind")) != ("autoscaling/v1", "Scale") {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}, Kind={}",
            word("apiVersion"),
            word("kind")
        )));
    }
    // An apply has a schema, whatever the validation.
    let (named, _) = read_scale(scale, FieldValidation::Strict)?;
    if named.metadata.name.as_ref().is_some_and(|name| *name != key.name) {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            named.metadata.name.unwrap_or_default(),
            key.name
        )));
    }
    let replicas = named.spec.and_then(|spec| spec.replicas);
    let spec = replicas.map_or_else(|| json!({}), |replicas| json!({"replicas": replicas}));
    let mut metadata = json!({"name": key.name, "namespace": key.namespace});
    if let Some(version) = named.metadata.resource_version {
        metadata["resourceVersion"] = version.into();
    }
    Ok(json!({"apiVersion": K::OBJECT_KIND.api_version(), "kind": K::OBJECT_KIND.row().name,
        "metadata": metadata, "spec": spec}))
}

/// An object's scale, as `autoscaling/v1` has it.
fn scale_of<K: Object>(object: &K) -> Result<Scale, ApiError> {
    let any: &dyn Any = object;
    let (replicas, current, selector) = if let Some(deployment) = any.downcast_ref::<Deployment>() {
        let spec = deployment.spec.as_ref();
        (
            spec.and_then(|spec| spec.replicas),
            deployment.status.as_ref().and_then(|status| status.replicas),
            spec.map(|spec| selector_text(&spec.selector)),
        )
    } else if let Some(set) = any.downcast_ref::<ReplicaSet>() {
        let spec = set.spec.as_ref();
        (
            spec.and_then(|spec| spec.replicas),
            set.status.as_ref().map(|status| status.replicas),
            spec.map(|spec| selector_text(&spec.selector)),
        )
    } else {
        return Err(method_not_allowed());
    };
    let meta = object.metadata();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas }),
        status: Some(ScaleStatus { replicas: current.unwrap_or(0), selector }),
    })
}

/// A Scale in the form asked for.
fn scale_reply<S: Store>(api: &Api<S>, parts: &Parts, scale: &Scale) -> Result<Response, ApiError> {
    let table = |meta: &ListMeta, include| {
        let replicas = |count: Option<i32>| json!(count.unwrap_or(0));
        let cells = vec![
            name(&scale.metadata),
            replicas(scale.spec.as_ref().and_then(|spec| spec.replicas)),
            replicas(scale.status.as_ref().map(|status| status.replicas)),
            age(&scale.metadata, api.now()),
        ];
        of_rows(meta, SCALE, &[row(cells, scale, include)], true)
    };
    match form(&parts.headers)? {
        Form::Json => Ok(value_reply(StatusCode::OK, scale)),
        Form::Metadata => {
            let bytes = serde_json::to_vec(scale)
                .map_err(|error| ApiError::internal(format!("the scale: {error}")))?;
            Ok(json_reply(StatusCode::OK, partial(&bytes)?))
        }
        Form::Table => {
            let pairs = query::pairs(parts.uri.query().unwrap_or_default());
            let meta = ListMeta {
                resource_version: scale.metadata.resource_version.clone(),
                ..ListMeta::default()
            };
            let include = Query::parse(Kind::Deployment, &pairs)?.include;
            Ok(value_reply(StatusCode::OK, &table(&meta, include)))
        }
    }
}

/// POST of `/binding`.
///
/// # Errors
/// As [`Api::bind`].
pub(crate) async fn binding<S: Store>(
    api: &Api<S>,
    who: &Identity,
    key: &Key,
    document: &Value,
    dry_run: bool,
) -> Result<Response, ApiError> {
    let binding: Binding = serde_json::from_value(document.clone())
        .map_err(|error| ApiError::bad_request(format!("the body is no Binding: {error}")))?;
    let uid = binding.metadata.uid.as_deref().unwrap_or_default();
    let node = binding.target.name.as_deref().unwrap_or_default();
    api.bind(who, key, uid, node, dry_run).await?;
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "code": 201});
    Ok(value_reply(StatusCode::CREATED, &success))
}

/// GET of a pod's `/log`, streamed as plain text.
///
/// # Errors
/// `BadRequest` for a container that must be named or is not there, `ServiceUnavailable` where no
/// node agent runs in this process.
pub(crate) async fn log<S: Store>(
    api: &Api<S>,
    who: &Identity,
    key: Key,
    pairs: &[(String, String)],
) -> Result<Response, ApiError> {
    let record = api.get(who, Kind::Pod, &key)?;
    let pod = api.typed::<Pod>(&record)?;
    let mut query = log_query(pairs)?;
    query.container = Some(container(&pod, query.container.take())?);
    let logs = api.logs().ok_or_else(|| {
        ApiError::new(Reason::ServiceUnavailable, "no node agent runs here, ask again soon")
    })?;
    // `logs -f` has no end of its own; the daemon's is one, else every stop would wait for it.
    let stop = api.tasks().stop().clone();
    let stream = logs.logs(key, query).await?.take_until(stop.cancelled_owned());
    let mut response = Response::new(Body::from_stream(stream));
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

fn log_query(pairs: &[(String, String)]) -> Result<LogQuery, ApiError> {
    let get = |name: &str| {
        let found = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    };
    let number = |name: &str| {
        get(name)
            .map(|text| {
                text.parse::<i64>().ok().filter(|number| *number >= 0).ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "{name}: Invalid value: \"{text}\": must be greater than or equal to 0"
                    ))
                })
            })
            .transpose()
    };
    let flag = |name: &str| get(name).is_some_and(|text| text != "false" && text != "0");
    let query = LogQuery {
        container: get("container").map(str::to_owned),
        follow: flag("follow"),
        previous: flag("previous"),
        since_seconds: number("sinceSeconds")?,
        since_time: get("sinceTime").map(str::to_owned),
        timestamps: flag("timestamps"),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    };
    if query.since_seconds.is_some() && query.since_time.is_some() {
        return Err(ApiError::bad_request(
            "at most one of sinceTime or sinceSeconds may be specified",
        ));
    }
    if let Some(text) = &query.since_time
        && text.parse::<jiff::Timestamp>().is_err()
    {
        return Err(ApiError::bad_request(format!("sinceTime: {text:?} is no RFC 3339 time")));
    }
    Ok(query)
}

/// The container that is meant, in the reference server's words where none is.
pub(crate) fn container(pod: &Pod, asked: Option<String>) -> Result<String, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let members = || spec.into_iter().flat_map(|spec| spec.containers.iter());
    match asked {
        Some(asked) if spec.into_iter().flat_map(every_name).any(|name| name == asked) => Ok(asked),
        Some(asked) => {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        }
        None => {
            let names: Vec<&str> = members().map(|container| container.name.as_str()).collect();
            match names.as_slice() {
                [only] => Ok((*only).to_owned()),
                _ => Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    names.join(" ")
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let pod = |names: &[&str]| -> Pod {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"containers": containers, "initContainers": [{"name": "i"}],
                "ephemeralContainers": [{"name": "e"}]}}))
            .expect("a pod")
        };
        assert_eq!(container(&pod(&["a"]), None), Ok("a".to_owned()));
        assert_eq!(container(&pod(&["a"]), Some("i".into())), Ok("i".to_owned()));
        assert_eq!(container(&pod(&["a"]), Some("e".into())), Ok("e".to_owned()));
        assert_eq!(
            container(&pod(&["a", "b"]), None).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert!(container(&pod(&["a"]), Some("x".into())).is_err());
    }

    #[test]
    fn a_bad_log_query_is_refused() {
        let query = |raw: &str| log_query(&crate::api::query::pairs(raw));
        assert!(query("tailLines=-1").is_err());
        assert!(query("tailLines=x").is_err());
        assert!(query("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").is_err());
        assert!(query("sinceTime=yesterday").is_err());
        let fine = query("container=c&follow=true&tailLines=5").expect("valid");
        assert_eq!(
            (fine.container.as_deref(), fine.follow, fine.tail_lines),
            (Some("c"), true, Some(5))
        );
    }
}
