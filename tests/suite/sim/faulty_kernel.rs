//! The packet filter as the simulation sees it: every restore is an effect, and some calls fail.

use std::future::Future;

use ballast::network::kernel::{BridgeFacts, Flow, JumpStep, Kernel, KernelError, Table, Tables};

use super::effects::Effects;
use super::fault::Fault;

#[derive(Clone)]
pub struct FaultyKernel<K> {
    kernel: K,
    effects: Effects,
}

impl<K: Kernel> FaultyKernel<K> {
    pub fn new(kernel: K, effects: Effects) -> Self {
        Self { kernel, effects }
    }

    async fn change<T>(
        &self,
        what: String,
        call: impl Future<Output = Result<T, KernelError>>,
    ) -> Result<T, KernelError> {
        self.effects.alive().await;
        if self.effects.strikes(Fault::KernelRefuses, "change") {
            return Err(injected());
        }
        let answer = call.await?;
        self.effects.happened(|| format!("kernel: {what}")).await;
        Ok(answer)
    }

    async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, KernelError>>,
    ) -> Result<T, KernelError> {
        self.effects.alive().await;
        if self.effects.strikes(Fault::KernelRefuses, "read") {
            Err(injected())
        } else {
            call.await
        }
    }
}

fn injected() -> KernelError {
    KernelError::Failed {
        program: "iptables".into(),
        message: "injected: another program holds the lock".into(),
    }
}

impl<K: Kernel> Kernel for FaultyKernel<K> {
    async fn probe(&self) -> Result<String, KernelError> {
        self.read(self.kernel.probe()).await
    }

    async fn prepare(&self, bridge: &str) -> BridgeFacts {
        self.kernel.prepare(bridge).await
    }

    async fn generation(&self) -> Option<u32> {
        self.kernel.generation().await
    }

    async fn save(&self, table: Table) -> Result<Tables, KernelError> {
        self.read(self.kernel.save(table)).await
    }

    async fn list(&self, table: Table, chains: &[String]) -> Result<Tables, KernelError> {
        self.read(self.kernel.list(table, chains)).await
    }

    async fn restore(&self, text: &str) -> Result<(), KernelError> {
        self.change(format!("restore {} lines", text.lines().count()), self.kernel.restore(text))
            .await
    }

    async fn jump(&self, step: &JumpStep) -> Result<(), KernelError> {
        self.change(format!("{step:?}"), self.kernel.jump(step)).await
    }

    async fn forget(&self, flow: &Flow) -> Result<(), KernelError> {
        self.change(format!("forget {flow:?}"), self.kernel.forget(flow)).await
    }
}
