//! `kubectl exec`, `attach` and `port-forward`: finds the running container that is meant and hands
//! its streams on.

use std::sync::{Arc, Weak};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::instance::{Instance, Role};
use crate::node::runtime::Runtime;
use crate::object::ports::BoxFuture;
use crate::object::streams::{AttachQuery, ExecQuery, PortConnection, Process, Streams};
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

/// Until it can.
fn not_yet() -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, "this version enters no containers")
}

impl<C: Cluster, R: Runtime> Streams for AgentStreams<C, R> {
    fn exec(&self, pod: Key, query: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>> {
        let agent = self.agent();
        Box::pin(async move {
            let agent = agent?;
            agent.running(&*agent.cell_of(&pod)?, &query.container)?;
            Err(not_yet())
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
            agent.running(&*agent.cell_of(&pod)?, &query.container)?;
            Err(not_yet())
        })
    }

    fn connect(
        &self,
        pod: Key,
        _port: u16,
    ) -> BoxFuture<Result<PortConnection<ApiError>, ApiError>> {
        let agent = self.agent();
        Box::pin(async move {
            agent?.cell_of(&pod)?;
            Err(not_yet())
        })
    }
}
