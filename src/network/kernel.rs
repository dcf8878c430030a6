//! The seam to the kernel's packet filter: what the loop asks of it. [`super::iptables`] does it with
//! the iptables programs, a simulation in memory.

use std::future::Future;

pub use super::restore_text::{Flow, JumpStep};
pub use super::rule::Table;
pub use super::tables::Tables;

/// Why the kernel did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("{program} is not permitted: run the daemon as root, or give it NET_ADMIN and NET_RAW")]
    NotPermitted { program: String },
    #[error("{program} is not installed: apt-get install {package}")]
    Missing { program: String, package: &'static str },
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
    #[error("{program} did not end within {seconds} s")]
    TimedOut { program: String, seconds: u64 },
}

impl KernelError {
    /// Trying again soon cannot help: a person must act.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::NotPermitted { .. } | Self::Missing { .. })
    }
}

/// What the pods' bridge is like after [`Kernel::prepare`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeFacts {
    /// Packets between two of its ports pass iptables.
    pub filtered: bool,
    /// What the host refused, each a sentence with its consequence.
    pub refused: Vec<String>,
}

/// The packet filter of one network namespace. Cheap to clone.
pub trait Kernel: Clone + Send + Sync + 'static {
    /// Whether rules can be written at all, and by which variant (`nf_tables`, `legacy`).
    fn probe(&self) -> impl Future<Output = Result<String, KernelError>> + Send;

    /// Makes the host forward, its bridges pass iptables, and the ports of `bridge` send a frame back
    /// to where it came from (a pod that reaches itself). Safe to repeat; new ports need it again.
    fn prepare(&self, bridge: &str) -> impl Future<Output = BridgeFacts> + Send;

    /// Counted up by every change of any rule by any program, and by nothing else. `None`: this host
    /// does not count (`legacy`), or it cannot be asked.
    fn generation(&self) -> impl Future<Output = Option<u32>> + Send;

    /// A whole table.
    fn save(&self, table: Table) -> impl Future<Output = Result<Tables, KernelError>> + Send;

    /// Some chains of a table; one that does not exist is not in the answer.
    fn list(
        &self,
        table: Table,
        chains: &[String],
    ) -> impl Future<Output = Result<Tables, KernelError>> + Send;

    /// `iptables-restore --noflush`: all of the text or nothing.
    fn restore(&self, text: &str) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// One change in a chain that is not ours.
    fn jump(&self, step: &JumpStep) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Makes conntrack forget; nothing to forget is no error.
    fn forget(&self, flow: &Flow) -> impl Future<Output = Result<(), KernelError>> + Send;
}

/// Both tables as they are.
///
/// # Errors
/// The first table that cannot be read.
pub async fn observe<K: Kernel>(kernel: &K) -> Result<Tables, KernelError> {
    let mut tables = kernel.save(Table::Nat).await?;
    let filter = kernel.save(Table::Filter).await?;
    tables.chains.extend(filter.chains);
    tables.policies.extend(filter.policies);
    Ok(tables)
}
