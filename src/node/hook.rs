//! Runs the lifecycle hooks of containers: a command inside, a GET to the pod, or a sleep. When one
//! runs and what its end means is decided in `pod_plan.rs` and `termination_plan.rs`.
//!
//! As the kubelet has it (`lifecycle/handlers.go`): a command must exit with 0; a GET must be
//! answered, and any status is an answer.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use tokio::time::sleep;

use crate::node::http_get::{Url, exchange};
use crate::node::probe::{Question, question};
use crate::node::runtime::{ExecOutcome, Runtime, RuntimeError};

/// A postStart hook runs as long as it runs.
pub const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// One hook of one running container.
pub struct Hook {
    pub instance: String,
    pub handler: LifecycleHandler,
    pub container: Container,
    pub pod_ip: Option<Ipv4Addr>,
}

/// Why a hook did not end well.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("{0}")]
    Failed(String),
    /// The engine did not answer: it may have run or not.
    #[error("{0}")]
    Unknown(String),
}

impl Hook {
    /// # Errors
    /// What went wrong, for the log.
    pub async fn run<R: Runtime>(&self, runtime: &R, limit: Duration) -> Result<(), HookError> {
        if let Some(pause) = &self.handler.sleep {
            sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or_default())).await;
            return Ok(());
        }
        // The same fields in the same words as a probe's.
        let asked = Probe {
            exec: self.handler.exec.clone(),
            http_get: self.handler.http_get.clone(),
            ..Probe::default()
        };
        match question(&asked, &self.container).map_err(HookError::Failed)? {
            Question::Exec(command) => match runtime.exec(&self.instance, &command, limit).await {
                Ok(ExecOutcome::Ended { exit_code: 0, .. }) => Ok(()),
                Ok(ExecOutcome::Ended { exit_code, output }) => {
                    Err(HookError::Failed(format!("exit code {exit_code}: {output}")))
                }
                Ok(ExecOutcome::Late) => Err(HookError::Failed("it did not end".to_owned())),
                Err(error @ RuntimeError::Unreachable(_)) => {
                    Err(HookError::Unknown(error.to_string()))
                }
                Err(error) => Err(HookError::Failed(error.to_string())),
            },
            Question::Http { https, host, port, path, headers } => {
                let host = host.or_else(|| self.pod_ip.map(|ip| ip.to_string()));
                let host = host
                    .ok_or_else(|| HookError::Failed("the pod has no address to ask".to_owned()))?;
                let url = Url { https, authority: format!("{host}:{port}"), path };
                let asked = exchange(&url, "kube-lifecycle", &headers).await;
                asked.map(|_| ()).map_err(|error| HookError::Failed(error.to_string()))
            }
            Question::Tcp { .. } | Question::Grpc { .. } => {
                Err(HookError::Failed("a hook is a command, a GET or a sleep".to_owned()))
            }
        }
    }
}
