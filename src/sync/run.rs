//! The loop of one source: fetch, read, plan, apply, look. One task a source, nothing shared.
//!
//! Every pass follows the newest head: commits that came and went in between are skipped. A wake-up
//! (a moved branch, a webhook) carries nothing and is never lost: one that comes during a pass makes
//! the next one. Between two fetches of a source there is at least [`FETCH_GAP`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::clock::Clock;
use crate::object::drift::{Drift, Layer};
use crate::object::ledger::Ledger;
use crate::object::ports::WakeSync;
use crate::object::source::{Problem, Source, SourceSpec, SourceStatus};
use crate::object::{ApiError, Key, Note, Scope, Transact};
use crate::sync::apply::{self, ApplyError};
use crate::sync::commit::{Commits, Read};
use crate::sync::diff::{self, Step};
use crate::sync::drift::Wish;
use crate::sync::git::{self, Fetched, GitError, Mirror};
use crate::sync::source::{CommitFacts, SourceConfig, SourceUrl};
use crate::sync::trigger::Trigger;
use crate::sync::{inventory, observe, source_status, verdict};
use crate::task::Tasks;

/// Hooks and pushes in between become one fetch.
const FETCH_GAP: Duration = Duration::from_secs(1);
/// After a hook without news the server's replica may lag behind: look again this soon, once.
const REPLICA_LAG: Duration = Duration::from_secs(3);
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// How often the verdict is computed while workloads are on their way, and after they arrived.
const LOOK_WHILE_WAITING: Duration = Duration::from_secs(1);
const LOOK_CONVERGED: Duration = Duration::from_secs(10);
/// The whole set is compared with the store: 1,000 objects take about 0.1 s.
const COMPARE: Duration = Duration::from_secs(30);

const COMPONENT: &str = "sync";

/// What the loops need beside the cluster.
#[derive(Clone)]
pub struct SyncOptions {
    /// The mirrors live in `git/` below it.
    pub data_dir: std::path::PathBuf,
    /// Keys the hashes that stand in for values of Secrets.
    pub secret_key: [u8; 32],
    /// Called with `sync` after every pass that completed.
    pub beat: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
}

/// Wakes the loops.
pub struct SyncHandle {
    wakers: BTreeMap<String, Arc<Waker>>,
}

#[derive(Default)]
struct Waker {
    wake: Arc<Notify>,
    /// A hook called, not a timer or a watch.
    hooked: AtomicBool,
}

impl WakeSync for SyncHandle {
    fn wake(&self, source: &str) -> bool {
        let Some(waker) = self.wakers.get(source) else { return false };
        waker.hooked.store(true, Ordering::Relaxed);
        waker.wake.notify_one();
        true
    }
}

/// Starts the loop of every source.
pub fn run<C: Transact>(
    cluster: C,
    sources: Vec<SourceConfig>,
    options: SyncOptions,
    clock: Clock,
    tasks: &Tasks,
) -> Arc<SyncHandle> {
    let mut wakers = BTreeMap::new();
    for config in sources {
        let waker = Arc::new(Waker::default());
        wakers.insert(config.name.clone(), waker.clone());
        let span = info_span!("sync", source = %config.name);
        let follower = Follower {
            cluster: cluster.clone(),
            options: options.clone(),
            clock,
            stop: tasks.stop().clone(),
            waker,
            mirror: None,
            commits: Commits::default(),
            status: SourceStatus::default(),
            stored: SourceStatus::default(),
            object: Arc::new(source_object(&config)),
            applied: None,
            ledger: Ledger::new(Layer::Object),
            failures: 0,
            config,
        };
        tasks.spawn("sync", follower.run().instrument(span));
    }
    Arc::new(SyncHandle { wakers })
}

fn source_object(config: &SourceConfig) -> Source {
    let mut source = Source {
        spec: SourceSpec {
            url: config.url.as_text(),
            branch: config.branch.clone(),
            path: config.path.clone(),
            poll_seconds: config.poll_seconds,
        },
        ..Source::default()
    };
    source.metadata.name = Some(config.name.clone());
    source
}

/// How a pass ended.
enum Ended {
    /// The store holds the head.
    Applied,
    /// The head is refused or held: told, and tried again later, because what it collides with may
    /// go away without a new commit.
    Waiting,
}

/// What must be tried again soon. The sentence is shown.
struct Failure(String);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error.message)
    }
}

/// The applied commit's wish, for comparing.
struct Applied {
    commit: String,
    steps: Vec<Step>,
}

struct Follower<C> {
    cluster: C,
    config: SourceConfig,
    options: SyncOptions,
    clock: Clock,
    stop: CancellationToken,
    waker: Arc<Waker>,
    mirror: Option<Arc<Mirror>>,
    commits: Commits,
    /// As it is now, and as it was last written.
    status: SourceStatus,
    stored: SourceStatus,
    object: Arc<Source>,
    applied: Option<Applied>,
    ledger: Ledger,
    failures: u32,
}

impl<C: Transact> Follower<C> {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // Cancel safe: nothing is half done between two awaits but a blocking fetch, which ends by
        // its own stop flag, and a transaction, which the store finishes or never begins.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        while let Err(Failure(message)) = self.take_up().await {
            self.failures += 1;
            warn!(message, "source not read from the store, trying again");
            tokio::time::sleep(self.back_off()).await;
        }
        self.failures = 0;
        let mut trigger = None;
        let start = Instant::now();
        let (mut next_fetch, mut next_look, mut next_compare) = (start, start, start + COMPARE);
        let mut last_fetch: Option<Instant> = None;
        loop {
            // Cancel safe: a permit of `wake` that arrives while the other arm wins stays.
            tokio::select! {
                () = self.waker.wake.notified() => {
                    let gap = last_fetch.map_or(start, |last| last + FETCH_GAP);
                    next_fetch = gap.max(Instant::now());
                }
                () = sleep_until(next_fetch.min(next_look)) => {}
            }
            let now = Instant::now();
            if now >= next_fetch {
                let hooked = self.waker.hooked.swap(false, Ordering::Relaxed);
                if trigger.is_none() {
                    trigger = self.watch();
                }
                last_fetch = Some(now);
                // A wake-up that comes meanwhile waits in its permit.
                next_fetch = now + self.pass(hooked).await;
                (next_look, next_compare) = (now, now);
            }
            if now >= next_compare {
                self.compare().await;
                next_compare = Instant::now() + COMPARE;
            }
            if now >= next_look {
                next_look = Instant::now() + self.look().await;
            }
            self.report().await;
        }
    }

    /// Makes the Source object say what is configured, and takes up what an earlier run stored.
    async fn take_up(&mut self) -> Result<(), Failure> {
        let key = Key::cluster(&self.config.name);
        let wanted = source_object(&self.config);
        let source = match self.cluster.get::<Source>(&key).await {
            Ok(stored) if stored.spec == wanted.spec => stored,
            Ok(stored) => {
                let mut changed = (*stored).clone();
                changed.spec = wanted.spec;
                self.cluster.update(&changed).await?
            }
            Err(error) if error.is_not_found() => self.cluster.create(&wanted).await?,
            Err(error) => return Err(error.into()),
        };
        self.status = source.status.clone().unwrap_or_default();
        self.stored = self.status.clone();
        self.object = source;
        let drifts = self.cluster.list::<Drift>(&Scope::all()).await?;
        let own = drifts.items.iter().map(AsRef::as_ref).filter(|drift: &&Drift| {
            drift.spec.origin.as_ref().is_some_and(|origin| origin.source == self.config.name)
        });
        self.ledger = Ledger::restore(Layer::Object, own);
        Ok(())
    }

    fn watch(&self) -> Option<Trigger> {
        let SourceUrl::Local(path) = &self.config.url else { return None };
        let refs = git::refs_folder(path)?;
        match Trigger::new(&refs, self.waker.wake.clone()) {
            Ok(trigger) => Some(trigger),
            Err(error) => {
                warn!(%error, "local repository is polled only");
                None
            }
        }
    }

    /// One pass; answers the pause until the next fetch.
    async fn pass(&mut self, hooked: bool) -> Duration {
        let before = self.status.fetched.as_ref().map(|commit| commit.id.clone());
        // A panic is a mistake of ours about this one commit: the last good one runs on, and the
        // daemon with it.
        let ended = match AssertUnwindSafe(self.sync()).catch_unwind().await {
            Ok(ended) => ended,
            Err(_) => Err(Failure("an internal error while applying the commit".to_owned())),
        };
        let poll = jittered(Duration::from_secs(u64::from(self.config.poll_seconds.max(1))));
        let news = before != self.status.fetched.as_ref().map(|commit| commit.id.clone());
        let pause = match ended {
            Ok(Ended::Applied) => {
                self.failures = 0;
                if hooked && !news { REPLICA_LAG } else { poll }
            }
            Ok(Ended::Waiting) => {
                self.failures += 1;
                poll.min(self.back_off() + Duration::from_secs(4))
            }
            Err(Failure(message)) => {
                self.failures += 1;
                let pause = self.back_off();
                warn!(message, again_in_seconds = pause.as_secs_f32(), "sync failed");
                pause
            }
        };
        self.report().await;
        if let Some(beat) = &self.options.beat {
            beat(COMPONENT);
        }
        pause
    }

    /// 1 s doubling to 5 min, ± 20 %, so that many sources of one server do not return together.
    fn back_off(&self) -> Duration {
        let doubled =
            FIRST_BACK_OFF * 2_u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        doubled.min(LONGEST_BACK_OFF).mul_f64(rand::random_range(0.8..1.2))
    }

    async fn sync(&mut self) -> Result<Ended, Failure> {
        let now = self.clock.now();
        let fetched = match self.fetch().await {
            Ok(fetched) => fetched,
            Err(error) => {
                source_status::fetch_failed(&mut self.status, error.to_string(), now);
                return Err(Failure(error.to_string()));
            }
        };
        let head = fetched.head;
        let news = self.status.fetched.as_ref().is_none_or(|commit| commit.id != head.id);
        source_status::fetched(&mut self.status, &head, now);
        if news {
            info!(commit = %head.id, subject = %head.subject, "commit fetched");
        }
        if let Some(old) = fetched.rewritten {
            let message =
                format!("the branch was rewritten: {} does not descend from {old}", head.id);
            info!(commit = %head.id, %old, "branch rewritten, following it");
            self.cluster.note(Note::normal(&*self.object, COMPONENT, "BranchRewritten", message));
        }
        let is_applied = self.status.applied.as_ref().is_some_and(|commit| commit.id == head.id);
        if is_applied && self.applied.is_some() {
            source_status::settled(&mut self.status);
            debug!(commit = %head.id, "nothing to do: the head is applied");
            return Ok(Ended::Applied);
        }
        let read = match self.read(head.id.clone()).await {
            Ok(read) => read,
            Err(
                error @ (GitError::PathMissing { .. }
                | GitError::PathNoFolder { .. }
                | GitError::Path(_)),
            ) => {
                let problem = Problem { message: error.to_string(), ..Problem::default() };
                return Ok(self.refuse(&head, vec![problem]));
            }
            Err(error) => return Err(Failure(error.to_string())),
        };
        if read.problems.is_empty() {
            return self.enter(&head, &read, is_applied).await;
        }
        let observed = observe::observe(&self.cluster, &self.status, &read.set).await?;
        let problems =
            apply::every_problem(&self.cluster, &self.config.name, &read, &observed).await;
        Ok(self.refuse(&head, problems))
    }

    /// Plans and applies what was read.
    async fn enter(
        &mut self,
        head: &CommitFacts,
        read: &Read,
        is_applied: bool,
    ) -> Result<Ended, Failure> {
        let observed = observe::observe(&self.cluster, &self.status, &read.set).await?;
        let plan = diff::plan(&self.config.name, &read.set, &observed);
        if !plan.problems.is_empty() {
            return Ok(self.refuse(head, plan.problems));
        }
        let same_objects = {
            let wanted = read.set.objects.iter().map(|object| (object.kind, object.key.clone()));
            let held = self.status.inventory.iter().map(|entry| (entry.kind, entry.key()));
            wanted.collect::<BTreeSet<_>>() == held.collect::<BTreeSet<_>>()
        };
        // The same commit with other objects: the source's path was changed.
        if is_applied && same_objects {
            // After a restart: what differs from the commit is drift, and told as such.
            source_status::settled(&mut self.status);
            self.remember(head, &plan.steps);
            return Ok(Ended::Applied);
        }
        let now = self.clock.now();
        if let Some(hold) = plan.hold {
            let held = self.status.held.as_ref();
            if held.is_none_or(|held| held.commit.id != head.id || held.reason != hold.reason) {
                error!(commit = %head.id, reason = %hold.reason, "commit held: a person is needed");
                self.cluster.note(Note::warning(
                    &*self.object,
                    COMPONENT,
                    "Held",
                    hold.reason.clone(),
                ));
            }
            source_status::held(&mut self.status, head, hold, now);
            return Ok(Ended::Waiting);
        }
        let uids = observe::known_uids(&observed, &self.config.name);
        let entries = inventory::entries(&read.set.objects, &uids);
        let mut status = self.status.clone();
        source_status::applied(&mut status, head, entries, now);
        let value = serde_json::to_value(&status).expect("a status has string keys only");
        let set = apply::set_of(&self.config.name, &plan.steps, Some(value));
        match apply::perform(&self.cluster, &plan.steps, &set, false).await {
            Ok(outcomes) => {
                self.stored = status.clone();
                inventory::learn_uids(&mut status.inventory, &outcomes);
                self.status = status;
                self.applied_note(head, &apply::count(&outcomes), &plan.left_alone);
                self.remember(head, &plan.steps);
                Ok(Ended::Applied)
            }
            Err(ApplyError::Refused(problems)) => Ok(self.refuse(head, problems)),
            Err(ApplyError::Later(message)) => Err(Failure(message)),
        }
    }

    fn applied_note(&self, head: &CommitFacts, counts: &apply::Counts, left_alone: &[String]) {
        let apply::Counts { created, updated, unchanged, deleted } = *counts;
        info!(commit = %head.id, created, updated, unchanged, deleted, "commit applied");
        for reason in left_alone {
            info!(%reason, "object left alone");
        }
        let message = format!(
            "commit {}: {created} created, {updated} changed, {deleted} removed, {unchanged} as they were",
            head.id
        );
        self.cluster.note(Note::normal(&*self.object, COMPONENT, "Applied", message));
    }

    fn refuse(&mut self, head: &CommitFacts, problems: Vec<Problem>) -> Ended {
        let known = self.status.refused.as_ref().is_some_and(|commit| commit.id == head.id)
            && self.status.problems.len() == problems.len().min(source_status::MOST_PROBLEMS);
        if !known {
            let first = problems.first().map(summary).unwrap_or_default();
            error!(commit = %head.id, problems = problems.len(), %first, "commit refused: a person is needed");
            let message = format!("commit {} has {} problems: {first}", head.id, problems.len());
            self.cluster.note(Note::warning(&*self.object, COMPONENT, "Refused", message));
        }
        source_status::refused(&mut self.status, head, problems, self.clock.now());
        Ended::Waiting
    }

    /// Keeps the commit's wish for comparing: its entering steps, as if applied again.
    fn remember(&mut self, head: &CommitFacts, steps: &[Step]) {
        let keys = |manifest: &crate::sync::manifest::Manifest, field: &str| {
            let map = manifest.value["metadata"][field].as_object();
            map.map(|map| map.keys().cloned().collect()).unwrap_or_default()
        };
        let entering = steps.iter().filter_map(|step| match step {
            Step::Apply { manifest, .. } => Some(Step::Apply {
                manifest: manifest.clone(),
                previous_labels: keys(manifest, "labels"),
                previous_annotations: keys(manifest, "annotations"),
                // Ours since it was applied, whatever its annotation says now.
                adopt: true,
                reason: "as applied",
            }),
            Step::Prune { .. } => None,
        });
        self.applied = Some(Applied { commit: head.id.clone(), steps: entering.collect() });
    }

    async fn fetch(&mut self) -> Result<Fetched, GitError> {
        let mirror = self.mirror().await?;
        let branch = self.config.branch.clone();
        let ended = Arc::new(AtomicBool::new(false));
        // Dropped with this future when the daemon stops: the fetch then ends at its next callback.
        let guard = EndOnDrop(ended.clone());
        let fetching = mirror.clone();
        let result = tokio::task::spawn_blocking(move || fetching.fetch(&branch, &ended)).await;
        drop(guard);
        let result =
            result.unwrap_or_else(|_| Err(GitError::Damaged("the fetch panicked".to_owned())));
        if let Err(GitError::Damaged(message)) = &result {
            warn!(message, "mirror made anew");
            mirror.reset()?;
        }
        result
    }

    async fn mirror(&mut self) -> Result<Arc<Mirror>, GitError> {
        if let Some(mirror) = &self.mirror {
            return Ok(mirror.clone());
        }
        let SourceConfig { name, url, credentials, .. } = self.config.clone();
        let folder = self.options.data_dir.clone();
        info!(%url, branch = %self.config.branch, "fetching the repository for the first time in this run");
        let opened =
            tokio::task::spawn_blocking(move || Mirror::open(&folder, &name, url, credentials))
                .await;
        let mirror = Arc::new(
            opened.unwrap_or_else(|_| Err(GitError::Damaged("opening it panicked".to_owned())))?,
        );
        self.mirror = Some(mirror.clone());
        Ok(mirror)
    }

    async fn read(&mut self, commit: String) -> Result<Read, GitError> {
        let mirror = self.mirror().await?;
        let mut commits = std::mem::take(&mut self.commits);
        let path = self.config.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = mirror.objects().and_then(|objects| commits.read(&objects, &commit, &path));
            (commits, read)
        });
        let (commits, read) = read.await.map_err(|_| {
            // Quarantine: the commit is not applied, the last good one runs on.
            GitError::Damaged("reading the commit ended in an internal error".to_owned())
        })?;
        self.commits = commits;
        if let (Err(GitError::Damaged(message)), Some(mirror)) = (&read, &self.mirror) {
            warn!(message, "mirror made anew");
            mirror.reset()?;
        }
        read
    }

    /// Compares the store with the applied commit, and heals.
    async fn compare(&mut self) {
        let Some(applied) = &self.applied else { return };
        let wish = Wish {
            source: &self.config.name,
            commit: &applied.commit,
            secret_key: &self.options.secret_key,
        };
        let now = self.clock.now();
        verdict::look(&self.cluster, wish, &applied.steps, &mut self.ledger, now).await;
    }

    /// Computes whether the world matches; answers when to look again.
    async fn look(&mut self) -> Duration {
        let inventory = &self.status.inventory;
        let waiting = observe::waiting_for(&self.cluster, inventory).await;
        let drifts = observe::open_drifts(&self.cluster, &self.config.name, inventory).await;
        match (waiting, drifts) {
            (Ok(waiting), Ok(drifts)) => {
                let was = self.status.converged.as_ref().is_some_and(|verdict| verdict.converged);
                source_status::converged(&mut self.status, waiting, drifts, self.clock.now());
                let is = self.status.converged.as_ref().is_some_and(|verdict| verdict.converged);
                if is && !was {
                    info!("converged: the world matches the applied commit");
                }
                if is { LOOK_CONVERGED } else { LOOK_WHILE_WAITING }
            }
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "verdict not computed");
                LOOK_CONVERGED
            }
        }
    }

    /// Writes the status when something worth it changed. A failed write is tried at the next report.
    async fn report(&mut self) {
        if !source_status::is_worth_writing(&self.stored, &self.status) {
            return;
        }
        let written = match self.cluster.get::<Source>(&Key::cluster(&self.config.name)).await {
            Ok(source) => {
                let mut source = (*source).clone();
                source.status = Some(self.status.clone());
                self.cluster.update_status(&source).await
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(source) => {
                self.object = source;
                self.stored = self.status.clone();
            }
            Err(error) => warn!(%error, "status of the source not written"),
        }
    }
}

struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.9..1.1))
}

/// `web.yaml:7:5: unknown field "imagee"`
fn summary(problem: &Problem) -> String {
    if problem.file.is_empty() {
        problem.message.clone()
    } else {
        format!("{}:{}:{}: {}", problem.file, problem.line, problem.column, problem.message)
    }
}
