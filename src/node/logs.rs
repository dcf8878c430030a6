//! `kubectl logs`: finds the instance that is meant and passes the engine's stream on.

use std::sync::{Arc, Weak};

use futures::StreamExt;
use futures::stream::BoxStream;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::node::agent::{Agent, lock};
use crate::node::instance::{Instance, Role};
use crate::node::runtime::{LogOptions, Runtime, RuntimeError};
use crate::object::ports::{BoxFuture, LogQuery, Logs, UsageReport, Usages};
use crate::object::streams::{AttachQuery, ExecQuery, PortConnection, Process, Streams};
use crate::object::{ApiError, Cluster, Key, Kind, Reason};

/// What the daemon holds of a running node agent.
pub struct NodeHandle {
    logs: Box<dyn Logs>,
    usages: Box<dyn Usages>,
    streams: Box<dyn Streams>,
}

impl NodeHandle {
    pub(crate) fn new(logs: impl Logs, usages: impl Usages, streams: impl Streams) -> Self {
        Self { logs: Box::new(logs), usages: Box::new(usages), streams: Box::new(streams) }
    }
}

impl Streams for NodeHandle {
    fn exec(&self, pod: Key, query: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        self.streams.exec(pod, query)
    }

    fn attach(
        &self,
        pod: Key,
        query: AttachQuery,
    ) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        self.streams.attach(pod, query)
    }

    fn connect(
        &self,
        pod: Key,
        port: u16,
    ) -> BoxFuture<Result<PortConnection<ApiError>, ApiError>> {
        self.streams.connect(pod, port)
    }
}

impl Usages for NodeHandle {
    fn usage(&self) -> BoxFuture<Result<Arc<UsageReport>, ApiError>> {
        self.usages.usage()
    }
}

type LogStream = BoxStream<'static, Result<Bytes, ApiError>>;

impl Logs for NodeHandle {
    fn logs(&self, pod: Key, query: LogQuery) -> BoxFuture<Result<LogStream, ApiError>> {
        self.logs.logs(pod, query)
    }
}

/// Weak: what the API holds must not keep the agent's tasks from being done when the daemon stops.
pub(crate) struct AgentLogs<C, R>(pub Weak<Agent<C, R>>);

impl<C: Cluster, R: Runtime> Logs for AgentLogs<C, R> {
    fn logs(&self, key: Key, query: LogQuery) -> BoxFuture<Result<LogStream, ApiError>> {
        let agent = self.0.upgrade();
        Box::pin(async move {
            let agent = agent.ok_or_else(|| {
                ApiError::new(Reason::ServiceUnavailable, "the node agent is stopping")
            })?;
            let cell = agent.cells().into_iter().find(|cell| cell.key == key);
            let cell = cell.ok_or_else(|| ApiError::not_found(Kind::Pod, &key.name))?;
            let pod = cell.pod();
            let container = container_of(&pod, query.container.as_deref())?;
            let instances = lock(&agent.instances).of_pod(&cell.uid);
            let id = chosen(&pod, &instances, &container, query.previous)?.id.clone();
            let options = options(&query, agent.clock.now())?;
            let stream = agent.runtime.logs(&id, &options).await.map_err(|e| away(&e))?;
            let stream = stream.map(|part| part.map_err(|error| away(&error)));
            Ok(limited(stream.boxed(), query.limit_bytes))
        })
    }
}

fn away(error: &RuntimeError) -> ApiError {
    match error {
        RuntimeError::Unreachable(_) => {
            ApiError::new(Reason::ServiceUnavailable, error.to_string())
        }
        RuntimeError::NotFound(message) => ApiError::new(Reason::NotFound, message.clone()),
        other => ApiError::internal(other.to_string()),
    }
}

/// The container that is meant: the named one, or the only one.
fn container_of(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let names: Vec<&str> = spec.containers.iter().map(|container| &*container.name).collect();
    let init = spec.init_containers.iter().flatten().map(|container| &*container.name);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &*container.name);
    match asked.filter(|asked| !asked.is_empty()) {
        Some(asked)
            if names.contains(&asked) || init.clone().chain(ephemeral).any(|one| one == asked) =>
        {
            Ok(asked.to_owned())
        }
        Some(asked) => {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        }
        None => match names.as_slice() {
            [only] => Ok((*only).to_owned()),
            _ => {
                let init: Vec<&str> = init.collect();
                let also = if init.is_empty() {
                    String::new()
                } else {
                    format!(" or one of the init containers: [{}]", init.join(" "))
                };
                Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]{also}",
                    names.join(" ")
                )))
            }
        },
    }
}

/// The instance that ran last, or the one before it.
fn chosen<'a>(
    pod: &Pod,
    instances: &'a [Instance],
    container: &str,
    previous: bool,
) -> Result<&'a Instance, ApiError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut attempts: Vec<&Instance> = instances
        .iter()
        .filter(|i| i.identity.role != Role::Sandbox && i.identity.container == container)
        .filter(|i| i.started_at.is_some() || i.ended().is_some())
        .collect();
    attempts.sort_by_key(|instance| std::cmp::Reverse(instance.identity.attempt));
    if !previous {
        return attempts.first().copied().ok_or_else(|| {
            ApiError::bad_request(format!(
                "container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating"
            ))
        });
    }
    // The last one that ended: the latest itself while it waits for its back-off.
    attempts.into_iter().find(|instance| instance.ended().is_some()).ok_or_else(|| {
        ApiError::bad_request(format!(
            "previous terminated container \"{container}\" in pod \"{name}\" not found"
        ))
    })
}

fn options(query: &LogQuery, now: Timestamp) -> Result<LogOptions, ApiError> {
    let since = match (&query.since_time, query.since_seconds) {
        (Some(text), _) => Some(text.parse().map_err(|_| {
            ApiError::bad_request(format!("sinceTime {text:?} is not an RFC 3339 time"))
        })?),
        (None, Some(seconds)) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.follow,
        timestamps: query.timestamps,
        tail: query.tail_lines,
        since,
    })
}

/// Ends the stream after so many bytes.
fn limited(stream: LogStream, limit: Option<i64>) -> LogStream {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return stream };
    let cut = stream.scan(limit, |left, part| {
        let part = match part {
            Ok(_) if *left == 0 => None,
            Ok(bytes) => {
                let taken = bytes.slice(..bytes.len().min(*left));
                *left -= taken.len();
                Some(Ok(taken))
            }
            Err(error) => Some(Err(error)),
        };
        futures::future::ready(part)
    });
    cut.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_plan::tests::{ended, instance, pod};
    use serde_json::json;

    #[test]
    fn previous_is_the_one_that_ended_last() {
        let pod = pod(json!({}));
        let dead = ended(instance(&pod, Role::Container, "web", 0), 1, 1);
        let alive = instance(&pod, Role::Container, "web", 1);
        let both = [dead.clone(), alive.clone()];
        assert_eq!(chosen(&pod, &both, "web", false).expect("one").id, alive.id);
        assert_eq!(chosen(&pod, &both, "web", true).expect("one").id, dead.id);
        assert_eq!(chosen(&pod, &[dead], "web", false).expect("one").id, "web-0");
        assert!(chosen(&pod, &[alive], "web", true).is_err());
        assert!(chosen(&pod, &[], "web", false).is_err());
    }

    #[test]
    fn the_only_container_needs_no_name() {
        assert_eq!(container_of(&pod(json!({})), None), Ok("web".into()));
        assert!(container_of(&pod(json!({})), Some("no")).is_err());
        let two = pod(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}));
        let error = container_of(&two, None).expect_err("which?");
        assert_eq!(
            error.message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[tokio::test]
    async fn a_byte_limit_cuts_within_a_part() {
        let parts = ["hello ", "world"].map(|text| Ok(Bytes::from_static(text.as_bytes())));
        let stream = limited(futures::stream::iter(parts).boxed(), Some(8));
        let text: Vec<Bytes> = stream.map(|part| part.expect("bytes")).collect().await;
        assert_eq!(text.concat(), b"hello wo");
    }
}
