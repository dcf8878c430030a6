//! `kubectl exec`, `attach` and `port-forward`: finds the running container that is meant and hands
//! its streams on.

use std::io;
use std::sync::{Arc, Weak};

use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::codec::{BytesCodec, FramedWrite};
use tracing::debug;

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::instance::{Instance, Role};
use crate::node::pod_network::{self, Sandbox};
use crate::node::runtime::{Runtime, RuntimeError};
use crate::object::ephemeral_container::every_container;
use crate::object::ports::BoxFuture;
use crate::object::streams::{AttachQuery, Channels, ExecQuery, PortConnection, Process, Streams};
use crate::object::{ApiError, Cluster, Key, Kind, Reason};

/// Weak: what the API holds must not keep the agent's tasks from being done when the daemon stops.
pub(crate) struct AgentStreams<C, R>(pub Weak<Agent<C, R>>);

impl<C: Cluster, R: Runtime> AgentStreams<C, R> {
    fn agent(&self) -> Result<Arc<Agent<C, R>>, ApiError> {
        self.0
            .upgrade()
            .ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "the node agent is stopping"))
    }
}

impl<C: Cluster, R: Runtime> Agent<C, R> {
    /// The pod of this node with that name.
    fn cell_of(&self, pod: &Key) -> Result<Arc<PodCell>, ApiError> {
        let cell = self.cells().into_iter().find(|cell| cell.key == *pod);
        cell.ok_or_else(|| ApiError::not_found(Kind::Pod, &pod.name))
    }

    /// The pod's sandbox, in whose network its containers are.
    async fn sandbox(&self, cell: &PodCell) -> Result<Sandbox, ApiError> {
        let instances = lock(&self.instances).of_pod(&cell.uid);
        let found = instances
            .into_iter()
            .find(|instance| instance.identity.role == Role::Sandbox && instance.is_running());
        let (sandbox, address) = found
            .and_then(|sandbox| sandbox.ip.map(|address| (sandbox, address)))
            // The kubelet's runtime has these words for a sandbox that does not run.
            .ok_or_else(|| ApiError::internal("sandbox container is not running"))?;
        let process = self.runtime.process(&sandbox.id).await;
        let process = process.map_err(|failure| told(&failure))?;
        Ok(Sandbox { id: sandbox.id, process, address })
    }

    /// The container's instance that runs, in the kubelet's words where there is none.
    fn running(&self, cell: &PodCell, container: &str) -> Result<Instance, ApiError> {
        let instances = lock(&self.instances).of_pod(&cell.uid);
        let found = instances.into_iter().find(|instance| {
            instance.identity.role != Role::Sandbox
                && instance.identity.container == container
                && instance.is_running()
        });
        found.ok_or_else(|| ApiError::internal(format!("container not found ({container:?})")))
    }
}

fn has_terminal(pod: &Pod, container: &str) -> bool {
    let mut members = pod.spec.iter().flat_map(every_container);
    members.any(|member| member.name == container && member.tty == Some(true))
}

/// In the kubelet's words, where it ended between the look and the call.
fn refused(error: &RuntimeError, container: &str) -> ApiError {
    match error {
        RuntimeError::NotFound(_) | RuntimeError::NameConflict(_) => not_found(container, error),
        other => told(other),
    }
}

fn not_found(container: &str, error: &RuntimeError) -> ApiError {
    debug!(container, %error, "not entered");
    ApiError::internal(format!("container not found ({container:?})"))
}

/// What the engine says in the middle of a stream.
fn told(error: &RuntimeError) -> ApiError {
    match error {
        RuntimeError::Unreachable(_) => {
            ApiError::new(Reason::ServiceUnavailable, error.to_string())
        }
        other => ApiError::internal(other.to_string()),
    }
}

impl<C: Cluster, R: Runtime> Streams for AgentStreams<C, R> {
    fn exec(&self, pod: Key, query: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            let instance = agent.running(&*agent.cell_of(&pod)?, &query.container)?;
            let ExecQuery { container, command, channels } = query;
            let process = agent.runtime.enter(&instance.id, &command, channels).await;
            let process = process.map_err(|error| refused(&error, &container))?;
            Ok(process.map_err(|error| told(&error)))
        })
    }

    fn attach(
        &self,
        pod: Key,
        query: AttachQuery,
    ) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            let cell = agent.cell_of(&pod)?;
            let AttachQuery { container, channels } = query;
            let instance = agent.running(&cell, &container)?;
            // A process has the terminal that it was made with, or none.
            let channels = Channels { tty: has_terminal(&cell.pod(), &container), ..channels };
            let process = agent.runtime.attach(&instance.id, channels).await;
            let process = process.map_err(|error| refused(&error, &container))?;
            Ok(process.map_err(|error| told(&error)))
        })
    }

    fn connect(
        &self,
        pod: Key,
        port: u16,
    ) -> BoxFuture<Result<PortConnection<ApiError>, ApiError>> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            let sandbox = agent.sandbox(&*agent.cell_of(&pod)?).await?;
            let connected = pod_network::connect(sandbox, port).await;
            let stream = connected.map_err(|failure| ApiError::internal(failure.to_string()))?;
            Ok(port_connection(stream).map_err(|failure| ApiError::internal(failure.to_string())))
        })
    }
}

/// Read at once from a pod: what is kept of it, beside the kernel's own buffers.
const PORT_PART: usize = 16 * 1024;

fn port_connection(stream: TcpStream) -> PortConnection<io::Error> {
    // What a terminal or a database says is small, and waited for.
    let _ = stream.set_nodelay(true);
    let (reads, writes) = stream.into_split();
    let output = futures::stream::try_unfold(reads, |mut reads| async move {
        let mut part = BytesMut::with_capacity(PORT_PART);
        let read = reads.read_buf(&mut (&mut part).limit(PORT_PART)).await?;
        Ok((read > 0).then(|| (part.freeze(), reads)))
    });
    PortConnection {
        input: Box::pin(FramedWrite::new(writes, BytesCodec::new())),
        output: output.boxed(),
    }
}
