//! The container engine as the simulation sees it: every change is an effect, some calls fail, and
//! events are dropped, doubled and late.

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use ballast::node::instance::{Instance, Listed};
use ballast::node::runtime::{
    EngineVolume, EngineVolumes, ExecOutcome, ImageFacts, IsKnown, LogOptions, NetworkSpec, Pull,
    Runtime, RuntimeError, RuntimeEvent, StoredImage, UsageSample, VolumeWish,
};
use ballast::node::{capacity::Engine, container_spec::ContainerSpec};
use ballast::object::streams::{Channels, Process};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::effects::Effects;
use super::fake_runtime::TOO_LATE;
use super::fault::Fault;

#[derive(Clone)]
pub struct FaultyRuntime<R> {
    runtime: R,
    effects: Effects,
}

impl<R: Runtime> FaultyRuntime<R> {
    pub fn new(runtime: R, effects: Effects) -> Self {
        Self { runtime, effects }
    }

    /// A call that changes the engine: it may fail before it does anything or be done without an
    /// answer, and the daemon may die right after it.
    async fn change<T>(
        &self,
        verb: &str,
        object: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.effects.alive().await;
        if self.effects.strikes(Fault::EngineRefuses, verb) {
            return Err(RuntimeError::Unreachable(format!("injected before {verb} {object}")));
        }
        let answer = call.await?;
        self.effects.happened(|| format!("engine: {verb} {object}")).await;
        if self.effects.strikes(Fault::EngineAnswerLost, verb) {
            return Err(RuntimeError::Unreachable(format!("injected after {verb} {object}")));
        }
        Ok(answer)
    }

    async fn read<T>(
        &self,
        verb: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        self.effects.alive().await;
        if self.effects.strikes(Fault::EngineRefuses, verb) {
            return Err(RuntimeError::Unreachable(format!("injected: {verb}")));
        }
        call.await
    }
}

impl<R: Runtime> EngineVolumes for FaultyRuntime<R> {
    async fn volume(&self, name: &str) -> Result<Option<EngineVolume>, RuntimeError> {
        self.read("volume", self.runtime.volume(name)).await
    }

    async fn volumes(&self, installation: &str) -> Result<Vec<EngineVolume>, RuntimeError> {
        self.read("volumes", self.runtime.volumes(installation)).await
    }

    async fn make_volume(&self, wish: &VolumeWish) -> Result<EngineVolume, RuntimeError> {
        self.change("make volume", &wish.name, self.runtime.make_volume(wish)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.change("remove volume", name, self.runtime.remove_volume(name)).await
    }

    async fn mounting(&self, source: &str) -> Result<Vec<String>, RuntimeError> {
        self.read("mounting", self.runtime.mounting(source)).await
    }
}

impl<R: Runtime> Runtime for FaultyRuntime<R> {
    async fn ping(&self) -> Result<(), RuntimeError> {
        self.read("ping", self.runtime.ping()).await
    }

    async fn engine(&self) -> Result<Engine, RuntimeError> {
        self.read("engine", self.runtime.engine()).await
    }

    async fn list(
        &self,
        installation: &str,
        is_known: IsKnown<'_>,
    ) -> Result<Listed, RuntimeError> {
        self.read("list", self.runtime.list(installation, is_known)).await
    }

    async fn inspect(&self, id: &str) -> Result<Instance, RuntimeError> {
        self.read("inspect", self.runtime.inspect(id)).await
    }

    async fn process(&self, id: &str) -> Result<i64, RuntimeError> {
        self.runtime.process(id).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        self.change("create", &spec.name, self.runtime.create(spec)).await
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.change("start", id, self.runtime.start(id)).await
    }

    async fn start_named(&self, id: &str, from: &str, to: &str) -> Result<(), RuntimeError> {
        // As on a real host it begins under the sandbox's name, and gets its own just then.
        self.change("start", id, self.runtime.start(id)).await?;
        let too_fast = self.effects.strikes(Fault::EngineAnswerLost, "name");
        let to = if too_fast { TOO_LATE } else { to };
        self.change("name", id, self.runtime.start_named(id, from, to)).await
    }

    async fn host_name(&self, id: &str) -> Result<String, RuntimeError> {
        self.read("host name", self.runtime.host_name(id)).await
    }

    async fn learn_from(&self, id: &str) -> Result<(), RuntimeError> {
        self.read("process", self.runtime.learn_from(id)).await
    }

    async fn rename(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        self.change("rename", name, self.runtime.rename(id, name)).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.change("stop", id, self.runtime.stop(id, grace)).await
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.change("remove", id, self.runtime.remove(id)).await
    }

    async fn ensure_network(&self, network: &NetworkSpec) -> Result<Ipv4Addr, RuntimeError> {
        self.change("ensure network", &network.name, self.runtime.ensure_network(network)).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), RuntimeError> {
        self.change("remove network", name, self.runtime.remove_network(name)).await
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        self.read("image", self.runtime.image(reference)).await
    }

    async fn pull(&self, pull: &Pull) -> Result<(), RuntimeError> {
        self.change("pull", &pull.reference, self.runtime.pull(pull)).await
    }

    async fn images(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        self.read("images", self.runtime.images()).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        self.change("remove image", name, self.runtime.remove_image(name)).await
    }

    async fn load(&self, archive: Bytes) -> Result<(), RuntimeError> {
        self.change("load", "the pause image", self.runtime.load(archive)).await
    }

    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        self.read("logs", self.runtime.logs(id, options)).await
    }

    async fn usage(&self, id: &str) -> Result<UsageSample, RuntimeError> {
        self.read("usage", self.runtime.usage(id)).await
    }

    async fn disk_usage(&self, id: &str) -> Result<u64, RuntimeError> {
        self.read("sizes", self.runtime.disk_usage(id)).await
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        self.read("exec", self.runtime.exec(id, command, limit)).await
    }

    async fn enter(
        &self,
        id: &str,
        command: &[String],
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        self.read("enter", self.runtime.enter(id, command, channels)).await
    }

    async fn attach(
        &self,
        id: &str,
        channels: Channels,
    ) -> Result<Process<RuntimeError>, RuntimeError> {
        self.read("attach", self.runtime.attach(id, channels)).await
    }

    async fn events(
        &self,
        installation: &str,
        since: jiff::Timestamp,
    ) -> Result<BoxStream<'static, Result<RuntimeEvent, RuntimeError>>, RuntimeError> {
        let effects = self.effects.clone();
        let events = self.read("events", self.runtime.events(installation, since)).await?;
        // Dropped, twice, or after a second (and what follows with it): a fault each.
        let bent = events.flat_map(move |event| {
            let strikes = |fault| event.is_ok() && effects.strikes(fault, "event");
            let (drop, double, late) = (
                strikes(Fault::EngineEventDropped),
                strikes(Fault::EngineEventDoubled),
                strikes(Fault::EngineEventLate),
            );
            let told = match event {
                Ok(_) if drop => Vec::new(),
                Ok(event) => std::iter::repeat_n(event, 1 + usize::from(double)).map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(told).then(move |event| async move {
                if late {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                event
            })
        });
        Ok(bent.boxed())
    }
}
