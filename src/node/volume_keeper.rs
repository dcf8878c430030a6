//! Makes this node's volumes for claims, and removes the data behind those that are released. What is to be
//! done is decided in `volume_provision.rs`; directories are `volume_folder.rs`' matter.
//!
//! Three watches feed what the node knows of storage; a change wakes whom it concerns, and nothing is
//! polled. A job is done beside the others, tried again with a growing pause, and may be cut off anywhere:
//! whatever it made has the name that the next try looks for.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::node::agent::{Agent, lock};
use crate::node::pod_status::time;
use crate::node::pod_worker::COMPONENT;
use crate::node::runtime::{Runtime, RuntimeError, VolumeWish};
use crate::node::volume_claims::{CLAIMS, claims_of, own_path};
use crate::node::volume_folder;
use crate::node::volume_provision::{Job, Place, is_same, left_over, plan};
use crate::object::storage::volume_of;
use crate::object::{Change, Cluster, DeleteOptions, Key, Note, Object, Scope};
use crate::task::{caught, caught_async};

/// Jobs at a time: each is a directory and a write to the store.
pub const JOBS: usize = 4;
/// Between two tries of a job: doubling from the first to the last (the volume controller's back-off ends
/// at 2 min).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(128);
/// For the watch to tell what a job that was done has written.
const SETTLING: Duration = Duration::from_secs(5);
/// Between two looks at what nobody speaks of.
const LOOK: Duration = Duration::from_secs(60);

/// How often a job failed, and when it is its turn again; `None`: it is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    failed: u32,
    next: Option<Instant>,
}

/// What the keeper shares with its jobs.
#[derive(Debug)]
pub struct Jobs {
    tried: std::sync::Mutex<BTreeMap<String, Tried>>,
    places: Semaphore,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { tried: std::sync::Mutex::default(), places: Semaphore::new(JOBS) }
    }
}

/// Keeps what is known of storage up to date, until the tasks stop.
pub async fn follow<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut claims = pin!(agent.cluster.watch::<PersistentVolumeClaim>(Scope::all()));
    let mut volumes = pin!(agent.cluster.watch::<PersistentVolume>(Scope::all()));
    let mut classes = pin!(agent.cluster.watch::<StorageClass>(Scope::all()));
    loop {
        // Cancel safe: a stream's next takes nothing when it is dropped.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            Some(change) = claims.next() => {
                let concerned = concerned(&change, |claim: &PersistentVolumeClaim| Some(claim.key()));
                lock(&agent.storage).claims.take(change);
                wake(&agent, concerned);
            }
            Some(change) = volumes.next() => {
                let concerned = concerned(&change, claim_of);
                lock(&agent.storage).volumes.take(change);
                wake(&agent, concerned);
            }
            Some(change) = classes.next() => lock(&agent.storage).classes.take(change),
            else => return,
        }
        agent.storage_changed.notify_one();
    }
}

fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.clone()?, reference.name.clone()?))
}

/// The claim that a change is about; `None`: it may be about any.
fn concerned<K: Object>(
    change: &Change<Arc<K>>,
    claim: impl Fn(&K) -> Option<Key>,
) -> Option<Option<Key>> {
    match change {
        Change::Reset(_) => None,
        Change::Applied(one) | Change::Deleted(one) => Some(claim(one)),
    }
}

fn wake<C: Cluster, R: Runtime>(agent: &Agent<C, R>, concerned: Option<Option<Key>>) {
    match concerned {
        Some(Some(claim)) => agent.wake_claimants(&claim),
        Some(None) => {}
        None => {
            for cell in agent.cells() {
                if claims_of(&cell.pod()).next().is_some() {
                    cell.wake.notify_one();
                }
            }
        }
    }
}

/// Does this node's part for claims, until the tasks stop.
pub async fn keep<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>) {
    let mut next: Option<Instant> = None;
    let (mut told, mut look) = (BTreeSet::new(), Look::default());
    loop {
        let soon = next.into_iter().chain(look.due).min();
        let pause = async move {
            match soon {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Cancel safe, all three: a permit of the signal is taken when this returns.
        tokio::select! {
            biased;
            () = agent.tasks.stop().cancelled() => return,
            () = agent.storage_changed.notified() => look.wish(),
            () = pause => {}
        }
        let passed = caught(|| begin(&agent));
        next = passed.unwrap_or_else(|panic| {
            error!(panic, "planning volumes panicked: it is tried again later");
            Some(Instant::now() + LAST_PAUSE)
        });
        if look.due.is_some_and(|due| due <= Instant::now()) {
            look = Look { due: None, last: Some(Instant::now()) };
            look_for_leftovers(&agent, &mut told).await;
        }
    }
}

/// When it is looked for what nobody speaks of: after a change, and not after each of many.
#[derive(Default)]
struct Look {
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Look {
    fn wish(&mut self) {
        let now = Instant::now();
        self.due = self.due.or_else(|| Some(self.last.map_or(now, |last| now.max(last + LOOK))));
    }
}

/// Starts every job whose turn it is; answers when the next one's is.
fn begin<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>) -> Option<Instant> {
    let options = &agent.options;
    let jobs = plan(&lock(&agent.storage), &options.node_name, &options.data_dir);
    let mut tried = lock(&agent.jobs.tried);
    let now = Instant::now();
    tried.retain(|uid, one| {
        one.next.is_none_or(|next| next > now) || jobs.iter().any(|job| job.uid() == uid)
    });
    let mut next = None;
    for job in jobs {
        match tried.get(job.uid()) {
            Some(Tried { next: None, .. }) => continue,
            Some(Tried { next: Some(at), .. }) if *at > now => {
                next = next.into_iter().chain([*at]).min();
                continue;
            }
            _ => tried.entry(job.uid().to_owned()).or_default().next = None,
        }
        agent.tasks.spawn_short("volume", work(agent.clone(), job));
    }
    next
}

async fn work<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>, job: Job) {
    let uid = job.uid().to_owned();
    let done = async {
        let _place = agent.jobs.places.acquire().await;
        match &job {
            Job::Provision { claim, place, volume } => {
                provision(&agent, claim, *place, volume).await
            }
            Job::Refuse { claim, place, why } => {
                say_failed(&agent, claim, *place, why);
                Err(why.clone())
            }
            Job::Reclaim { volume, place } => reclaim(&agent, volume, *place).await,
            Job::Keep { volume, why } => {
                say_kept(&agent, volume, why).await;
                Err(why.clone())
            }
        }
    };
    let done = match caught_async(done).await {
        Ok(done) => done,
        Err(panic) => {
            error!(panic, "a volume's job panicked: it is tried again later");
            Err(panic)
        }
    };
    {
        let mut tried = lock(&agent.jobs.tried);
        let one = tried.entry(uid).or_default();
        let pause = match done {
            Ok(()) => {
                one.failed = 0;
                SETTLING
            }
            Err(_) => {
                one.failed = one.failed.saturating_add(1);
                (FIRST_PAUSE * 2_u32.saturating_pow(one.failed.min(16) - 1)).min(LAST_PAUSE)
            }
        };
        one.next = Some(Instant::now() + pause);
    }
    agent.storage_changed.notify_one();
}

async fn provision<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    claim: &PersistentVolumeClaim,
    place: Place,
    volume: &PersistentVolume,
) -> Result<(), String> {
    let message =
        format!("External provisioner is provisioning volume for claim \"{}\"", claim.key());
    agent.cluster.note(Note::normal(claim, place.provisioner(), "Provisioning", message));
    let made = make(agent, claim, place, volume).await;
    agent.options.metrics.volume("provision", &made);
    match made {
        Ok(is_new) => {
            let name = volume.key().name;
            if is_new {
                info!(claim = %claim.key(), volume = %name, "volume provisioned");
            }
            let message = format!("Successfully provisioned volume {name}");
            let reason = "ProvisioningSucceeded";
            agent.cluster.note(Note::normal(claim, place.provisioner(), reason, message));
            Ok(())
        }
        Err(why) => {
            say_failed(agent, claim, place, &why);
            Err(why)
        }
    }
}

fn say_failed<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    claim: &PersistentVolumeClaim,
    place: Place,
    why: &str,
) {
    warn!(claim = %claim.key(), %why, "volume not provisioned");
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.unwrap_or_default();
    let message = format!("failed to provision volume with StorageClass \"{class}\": {why}");
    let (component, reason) = (place.provisioner(), "ProvisioningFailed");
    agent.cluster.note(Note::warning(claim, component, reason, message));
}

/// The data's place first, then the object that speaks of it: the other way round a pod could find a volume
/// that is not there. Answers whether the object is new.
async fn make<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    claim: &PersistentVolumeClaim,
    place: Place,
    volume: &PersistentVolume,
) -> Result<bool, String> {
    let name = volume.key().name;
    match place {
        Place::Directory => {
            let (folder, name) = (agent.options.data_dir.join(CLAIMS), name.clone());
            let making = spawn_blocking(move || volume_folder::make(&folder, &name)).await;
            making
                .expect("making a directory does not panic")
                .map_err(|error| error.to_string())?;
        }
        Place::Engine => {
            let installation = agent.options.installation.clone();
            let wish = VolumeWish {
                name: name.clone(),
                installation: installation.clone(),
                claim: claim.key().to_string(),
            };
            let made = agent.runtime.make_volume(&wish).await.map_err(|error| error.to_string())?;
            if made.installation != Some(installation) || made.driver != "local" {
                return Err(format!("the engine has a volume {name} already, which is not ours"));
            }
        }
    }
    match agent.cluster.create(volume).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_already_exists() => {
            let stored = agent.cluster.get::<PersistentVolume>(&volume.key()).await;
            match stored {
                Ok(stored) if is_same(&stored, volume) => Ok(false),
                Ok(_) => Err(format!("persistentvolumes \"{name}\" is another claim's")),
                Err(error) => Err(error.to_string()),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn reclaim<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    volume: &PersistentVolume,
    place: Place,
) -> Result<(), String> {
    let removed = remove_data(agent, volume, place).await;
    agent.options.metrics.volume("delete", &removed);
    if let Err(why) = removed {
        say_kept(agent, volume, &why).await;
        return Err(why);
    }
    info!(volume = %volume.key(), reason = "its claim is gone", "volume's data removed");
    if volume.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let options = DeleteOptions { uid: Some(volume.uid().to_owned()), ..DeleteOptions::default() };
    match agent.cluster.delete::<PersistentVolume>(&volume.key(), &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => {
            warn!(volume = %volume.key(), %error, "volume object not deleted");
            Err(error.to_string())
        }
        _ => Ok(()),
    }
}

async fn remove_data<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    volume: &PersistentVolume,
    place: Place,
) -> Result<(), String> {
    let name = volume.key().name;
    if let Some(claim) = claim_of(volume)
        && let Some(pod) = user_of(agent, &claim, &name)
    {
        return Err(format!("persistentvolume {name} is still used by pod {pod}"));
    }
    match place {
        Place::Directory => {
            let path = own_path(&agent.options.data_dir, &name);
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let said = agent.runtime.mounting(&real.to_string_lossy()).await;
            let mounting = said.map_err(|error| error.to_string())?;
            if let Some(container) = mounting.first() {
                return Err(format!("{} is mounted by container {container}", path.display()));
            }
            let (folder, name) = (agent.options.data_dir.join(CLAIMS), name);
            let removing = spawn_blocking(move || volume_folder::remove(&folder, &name)).await;
            removing.expect("removing files does not panic").map_err(|error| error.to_string())
        }
        Place::Engine => {
            let found = agent.runtime.volume(&name).await.map_err(|error| error.to_string())?;
            let owner = found.map(|found| found.installation);
            match owner {
                None => Ok(()),
                Some(owner) if owner.as_ref() == Some(&agent.options.installation) => {
                    let removed = agent.runtime.remove_volume(&name).await;
                    removed.map_err(|error: RuntimeError| error.to_string())
                }
                Some(_) => Err(format!("the engine's volume {name} is not ours")),
            }
        }
    }
}

/// A pod of this node that has a volume by its claim, and of which there is any container.
fn user_of<C: Cluster, R: Runtime>(agent: &Agent<C, R>, claim: &Key, volume: &str) -> Option<Key> {
    let bound = lock(&agent.storage).claims.get(claim).cloned();
    if bound.is_some_and(|bound| volume_of(&bound).is_some_and(|other| other != volume)) {
        return None;
    }
    let cells = agent.cells();
    let uses = cells.iter().find(|cell| {
        claims_of(&cell.pod()).any(|(_, key)| key == *claim)
            && !lock(&agent.instances).of_pod(&cell.uid).is_empty()
    });
    uses.map(|cell| cell.key.clone())
}

/// The reference's words for a volume whose data cannot be removed.
async fn say_kept<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    volume: &PersistentVolume,
    why: &str,
) {
    warn!(volume = %volume.key(), %why, "volume's data not removed");
    let component = COMPONENT;
    agent.cluster.note(Note::warning(volume, component, "VolumeFailedDelete", why.to_owned()));
    let mut failed = volume.clone();
    let status = failed.status.get_or_insert_default();
    if status.phase.as_deref() != Some("Failed") {
        status.last_phase_transition_time = Some(time(agent.clock.now()));
    }
    (status.phase, status.message) = (Some("Failed".to_owned()), Some(why.to_owned()));
    if failed.status == volume.status {
        return;
    }
    if let Err(error) = agent.cluster.update_status(&failed).await {
        warn!(volume = %volume.key(), %error, "volume's status not written, the next try writes it");
    }
}

/// Tells what was made for a claim and has no object. It is never removed: it may be the only copy.
async fn look_for_leftovers<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    told: &mut BTreeSet<String>,
) {
    let folder = agent.options.data_dir.join(CLAIMS);
    if !folder.exists() {
        return;
    }
    let reading = spawn_blocking(move || volume_folder::names(&folder)).await;
    let found = match reading.expect("reading a directory does not panic") {
        Ok(found) => found,
        Err(error) => {
            warn!(%error, "volumes not listed");
            return;
        }
    };
    let left = left_over(&found, &lock(&agent.storage));
    agent.options.metrics.leftover_volumes(left.len());
    for name in left.difference(told) {
        let path = own_path(&agent.options.data_dir, name);
        let path = path.display();
        warn!(%path, "a directory has no PersistentVolume: it is kept, and nobody will remove it");
        let node = Node {
            metadata: ObjectMeta {
                name: Some(agent.options.node_name.clone()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        };
        let message = format!(
            "{path} has no PersistentVolume: it is kept. Remove it by hand, or name it in a PersistentVolume of the name {name}"
        );
        agent.cluster.note(Note::warning(&node, COMPONENT, "VolumeLeftOver", message));
    }
    *told = left;
}
