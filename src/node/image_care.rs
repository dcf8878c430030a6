//! Collects images: looks every five minutes whether the engine's disk is full, removes what
//! `image_gc.rs` names, and says what became of it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use crate::node::agent::{Agent, lock};
use crate::node::capacity::Engine;
use crate::node::care::ReadSignals;
use crate::node::eviction::{Readings, Signal};
use crate::node::pod_worker::COMPONENT;
use crate::node::runtime::Runtime;
use crate::object::{Cluster, Note};
use crate::task::caught_async;

/// The kubelet's `ImageGCPeriod`.
const PERIOD: Duration = Duration::from_secs(300);

/// Until the tasks stop.
pub async fn run<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>, signals: ReadSignals) {
    let mut passes = interval(PERIOD);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        // Cancel safe, both.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            _ = passes.tick() => {}
        }
        let passed = caught_async(pass(&agent, &signals)).await;
        match passed {
            Ok(Ok(())) => failures = 0,
            Ok(Err(why)) => {
                failures += 1;
                warn!(%why, "images not collected");
                // Like the kubelet: a first failure may be of a start that is not over yet.
                if failures > 1 {
                    tell(&agent, Note::warning, "ImageGCFailed", why);
                }
            }
            Err(panic) => error!(panic, "collecting images panicked: it is tried again later"),
        }
    }
}

async fn pass<C: Cluster, R: Runtime>(
    agent: &Arc<Agent<C, R>>,
    signals: &ReadSignals,
) -> Result<(), String> {
    let Some(engine) = agent.engine() else { return Ok(()) };
    let readings = read(agent, signals, &engine).await;
    let Some(disk) = readings.get(&Signal::ImagefsAvailable) else { return Ok(()) };
    let thresholds = agent.options.care.settings.image_gc;
    let to_free = thresholds.to_free(disk.capacity, disk.available);
    // Looked at in any case: who was used when is known by looking.
    let freed = collect(agent, to_free.unwrap_or(0)).await?;
    let Some(to_free) = to_free else { return Ok(()) };
    if freed > 0 {
        let message = format!("Removed unused images of {freed} bytes: the disk was full");
        tell(agent, Note::normal, "ImageGCSucceeded", message);
    }
    if freed < to_free {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."
        );
        tell(agent, Note::warning, "FreeDiskSpaceFailed", message.clone());
        return Err(message);
    }
    Ok(())
}

/// What the host tells now.
pub async fn read<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    signals: &ReadSignals,
    engine: &Engine,
) -> Readings {
    let (signals, node_files) = (signals.clone(), agent.options.data_dir.clone());
    let image_files = engine.data_root.clone();
    // A disk may be slow, or gone.
    let reading = tokio::task::spawn_blocking(move || signals(&node_files, image_files.as_ref()));
    reading.await.expect("reading files does not panic")
}

/// Removes images until so many bytes are free, or none is left that may go; answers how many were
/// freed. An image counts as its whole size, as with the kubelet, though it may share layers.
///
/// # Errors
/// The engine's, told as a sentence.
pub async fn collect<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    to_free: u64,
) -> Result<u64, String> {
    let stored = agent.runtime.images().await.map_err(|error| error.to_string())?;
    let now = agent.clock.now();
    let least_age = agent.options.care.settings.image_gc.least_age;
    let removable = agent.pulled.change(|all| {
        all.look(&stored, now);
        all.removable(&stored, least_age, now)
    });
    let mut freed = 0;
    for removal in removable {
        if freed >= to_free {
            break;
        }
        match agent.runtime.remove_image(&removal.name).await {
            Ok(()) => {
                freed += removal.bytes;
                lock(&agent.images).see(&removal.name, None);
                info!(image = removal.name, bytes = removal.bytes, "image removed");
            }
            Err(error) if agent.is_away(&error).await => return Err(error.to_string()),
            Err(error) => warn!(image = removal.name, %error, "image not removed"),
        }
    }
    debug!(to_free, freed, "images looked at");
    Ok(freed)
}

/// An Event about the node.
pub fn tell<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    make: impl FnOnce(&Node, &'static str, &'static str, String) -> Note,
    reason: &'static str,
    message: String,
) {
    let name = Some(agent.options.node_name.clone());
    let node = Node { metadata: ObjectMeta { name, ..ObjectMeta::default() }, ..Node::default() };
    agent.cluster.note(make(&node, COMPONENT, reason, message));
}
