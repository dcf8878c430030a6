//! What the network tells about itself on `/metrics`, as `ballast_network_…`.

use std::future::Future;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::measure::{Counters, Label, Timers, at_zero, label, quick_timers, result};

use super::programmer::Look;
use super::rule::Table;

/// Counted whether or not anybody registered them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Counters<2>,
    pass_seconds: Timers<1>,
    restores: Counters<2>,
    restore_seconds: Timers<1>,
    chains_written: Counters<1>,
    chains_removed: Counters<1>,
    full_compares: Counter,
    services: Gauge,
    endpoints: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let tables = Table::ALL.map(Table::as_str);
        let (passes, restores) = (Counters::default(), Counters::default());
        for result in ["ok", "failed"] {
            for look in [Look::Changes, Look::Canary, Look::Full] {
                drop(passes.get_or_create(&[of_look(look), label("result", result)]));
            }
            for table in tables {
                let labels = [label("table", table), label("result", result)];
                drop(restores.get_or_create(&labels));
            }
        }
        let (chains_written, chains_removed) = (Counters::default(), Counters::default());
        at_zero(&chains_written, "table", &tables);
        at_zero(&chains_removed, "table", &tables);
        Self {
            passes,
            pass_seconds: quick_timers(),
            restores,
            restore_seconds: quick_timers(),
            chains_written,
            chains_removed,
            full_compares: Counter::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Measures one pass.
    pub(super) async fn pass<T, E>(
        &self,
        look: Look,
        pass: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let passed = pass.await;
        let labels = [of_look(look), label("result", result(&passed))];
        self.passes.get_or_create(&labels).inc();
        let seconds = begun.elapsed().as_secs_f64();
        self.pass_seconds.get_or_create(&[of_look(look)]).observe(seconds);
        passed
    }

    /// Measures one restore of one table.
    pub(super) async fn restore<T, E>(
        &self,
        table: Table,
        restore: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let restored = restore.await;
        let of_table = label("table", table.as_str());
        let labels = [of_table.clone(), label("result", result(&restored))];
        self.restores.get_or_create(&labels).inc();
        let seconds = begun.elapsed().as_secs_f64();
        self.restore_seconds.get_or_create(&[of_table]).observe(seconds);
        restored
    }

    /// So many chains of a table were written anew, so many removed.
    pub(super) fn wrote(&self, table: Table, written: usize, removed: usize) {
        let labels = [label("table", table.as_str())];
        self.chains_written.get_or_create(&labels).inc_by(written as u64);
        self.chains_removed.get_or_create(&labels).inc_by(removed as u64);
    }

    /// Every rule was read and compared.
    pub(super) fn compared(&self) {
        self.full_compares.inc();
    }

    /// What the rules serve now.
    pub(super) fn programmed(&self, services: usize, endpoints: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        let network = registry.sub_registry_with_prefix("ballast_network");
        network.register(
            "passes",
            "Passes over the rules by what made them: changes (of Services or endpoints), canary (every 2 s) or full (every 30 s)",
            self.passes.clone(),
        );
        network.register(
            "pass_seconds",
            "Time from a pass's begin until its rules are in the kernel and read back",
            self.pass_seconds.clone(),
        );
        network.register("restores", "Restores of a table, by result", self.restores.clone());
        network.register(
            "restore_seconds",
            "Time until the kernel has taken a restore",
            self.restore_seconds.clone(),
        );
        network.register("chains_written", "Chains written anew", self.chains_written.clone());
        network.register("chains_removed", "Chains removed", self.chains_removed.clone());
        network.register(
            "full_compares",
            "Times that every rule was read and compared",
            self.full_compares.clone(),
        );
        network.register(
            "services_programmed",
            "Services that the rules serve; 0 while this node's rules cannot be programmed",
            self.services.clone(),
        );
        network.register(
            "endpoints_programmed",
            "Pod addresses that the rules send new connections to",
            self.endpoints.clone(),
        );
    }
}

fn of_look(look: Look) -> Label {
    let word = match look {
        Look::Changes => "changes",
        Look::Canary => "canary",
        Look::Full => "full",
    };
    label("look", word)
}
