//! A container engine whose calls are measured. It stands between the agent and whatever engine the
//! agent was given, so that neither counts anything itself.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::node::capacity::Engine;
use crate::node::container_spec::ContainerSpec;
use crate::node::instance::{Instance, Listed};
use crate::node::metrics::Metrics;
use crate::node::runtime::{
    EngineVolume, EngineVolumes, ExecOutcome, ImageFacts, IsKnown, LogOptions, NetworkSpec, Pull,
    Runtime, RuntimeError, RuntimeEvent, StoredImage, UsageSample, VolumeWish,
};
use crate::object::streams::{Channels, Process};

/// An engine and what is counted of it.
#[derive(Clone)]
pub struct Measured<R> {
    engine: R,
    metrics: Metrics,
}

type Answer<T> = Result<T, RuntimeError>;

impl<R: Runtime> Measured<R> {
    pub fn new(engine: R, metrics: Metrics) -> Self {
        Self { engine, metrics }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Answer<T>>,
    ) -> (Answer<T>, Duration) {
        let begun = Instant::now();
        let answer = call.await;
        let took = begun.elapsed();
        self.metrics.called(operation, &answer, took);
        (answer, took)
    }
}

impl<R: Runtime> EngineVolumes for Measured<R> {
    async fn volume(&self, name: &str) -> Answer<Option<EngineVolume>> {
        self.call("volume", self.engine.volume(name)).await.0
    }

    async fn volumes(&self, installation: &str) -> Answer<Vec<EngineVolume>> {
        self.call("volumes", self.engine.volumes(installation)).await.0
    }

    async fn make_volume(&self, wish: &VolumeWish) -> Answer<EngineVolume> {
        self.call("make_volume", self.engine.make_volume(wish)).await.0
    }

    async fn remove_volume(&self, name: &str) -> Answer<()> {
        self.call("remove_volume", self.engine.remove_volume(name)).await.0
    }

    async fn mounting(&self, source: &str) -> Answer<Vec<String>> {
        self.call("list", self.engine.mounting(source)).await.0
    }
}

impl<R: Runtime> Runtime for Measured<R> {
    async fn ping(&self) -> Answer<()> {
        self.call("ping", self.engine.ping()).await.0
    }

    async fn engine(&self) -> Answer<Engine> {
        self.call("version", self.engine.engine()).await.0
    }

    async fn list(&self, installation: &str, is_known: IsKnown<'_>) -> Answer<Listed> {
        let (listed, took) = self.call("list", self.engine.list(installation, is_known)).await;
        self.metrics.listed(took);
        listed
    }

    async fn inspect(&self, id: &str) -> Answer<Instance> {
        self.call("inspect", self.engine.inspect(id)).await.0
    }

    async fn host_name(&self, id: &str) -> Answer<String> {
        self.call("process", self.engine.host_name(id)).await.0
    }

    async fn process(&self, id: &str) -> Answer<i64> {
        self.call("process", self.engine.process(id)).await.0
    }

    async fn mount_table(&self) -> Option<Vec<u8>> {
        self.engine.mount_table().await
    }

    async fn create(&self, spec: &ContainerSpec) -> Answer<String> {
        let (created, _) = self.call("create", self.engine.create(spec)).await;
        let again = !spec.identity.is_sandbox() && spec.identity.attempt > 0;
        if again && created.is_ok() {
            self.metrics.restarted();
        }
        created
    }

    async fn start(&self, id: &str) -> Answer<()> {
        self.call("start", self.engine.start(id)).await.0
    }

    async fn start_named(&self, id: &str, from: &str, to: &str) -> Answer<()> {
        self.call("start", self.engine.start_named(id, from, to)).await.0
    }

    async fn learn_from(&self, id: &str) -> Answer<()> {
        self.call("process", self.engine.learn_from(id)).await.0
    }

    async fn rename(&self, id: &str, name: &str) -> Answer<()> {
        self.call("rename", self.engine.rename(id, name)).await.0
    }

    async fn stop(&self, id: &str, grace: Duration) -> Answer<()> {
        self.call("stop", self.engine.stop(id, grace)).await.0
    }

    async fn remove(&self, id: &str) -> Answer<()> {
        self.call("remove", self.engine.remove(id)).await.0
    }

    async fn ensure_network(&self, network: &NetworkSpec) -> Answer<Ipv4Addr> {
        self.call("ensure_network", self.engine.ensure_network(network)).await.0
    }

    async fn remove_network(&self, name: &str) -> Answer<()> {
        self.call("remove_network", self.engine.remove_network(name)).await.0
    }

    async fn image(&self, reference: &str) -> Answer<Option<ImageFacts>> {
        self.call("image", self.engine.image(reference)).await.0
    }

    async fn pull(&self, pull: &Pull) -> Answer<()> {
        let (pulled, took) = self.call("pull", self.engine.pull(pull)).await;
        self.metrics.pulled(&pulled, took);
        pulled
    }

    async fn images(&self) -> Answer<Vec<StoredImage>> {
        self.call("images", self.engine.images()).await.0
    }

    async fn remove_image(&self, name: &str) -> Answer<()> {
        self.call("remove_image", self.engine.remove_image(name)).await.0
    }

    async fn load(&self, archive: Bytes) -> Answer<()> {
        self.call("load", self.engine.load(archive)).await.0
    }

    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Answer<BoxStream<'static, Answer<Bytes>>> {
        self.call("logs", self.engine.logs(id, options)).await.0
    }

    async fn usage(&self, id: &str) -> Answer<UsageSample> {
        self.call("stats", self.engine.usage(id)).await.0
    }

    async fn disk_usage(&self, id: &str) -> Answer<u64> {
        self.call("sizes", self.engine.disk_usage(id)).await.0
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Answer<ExecOutcome> {
        self.call("exec", self.engine.exec(id, command, limit)).await.0
    }

    async fn enter(
        &self,
        id: &str,
        command: &[String],
        channels: Channels,
    ) -> Answer<Process<RuntimeError>> {
        self.call("enter", self.engine.enter(id, command, channels)).await.0
    }

    async fn attach(&self, id: &str, channels: Channels) -> Answer<Process<RuntimeError>> {
        self.call("attach", self.engine.attach(id, channels)).await.0
    }

    async fn events(
        &self,
        installation: &str,
        since: Timestamp,
    ) -> Answer<BoxStream<'static, Answer<RuntimeEvent>>> {
        self.call("events", self.engine.events(installation, since)).await.0
    }
}
