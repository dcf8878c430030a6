//! The loop of one source: fetch, read, plan, apply, look. One task a source, nothing shared.
//!
//! Every pass follows the newest head: commits that came and went in between are skipped. A wake-up
//! (a moved branch, a webhook) carries nothing and is never lost: one that comes during a pass makes
//! the next one. Between two fetches of a source there is at least [`FETCH_GAP`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use crate::clock::Clock;
use crate::object::drift::{Drift, Layer};
use crate::object::inventory::{Inventory, InventoryEntry};
use crate::object::ledger::Ledger;
use crate::object::source::{Problem, Source, SourceStatus};
use crate::object::{ApiError, Key, Note, Scope, Transact};
use crate::sync::announce::{Announcer, COMPONENT};
use crate::sync::apply::{self, ApplyError};
use crate::sync::commit::{Commits, Read};
use crate::sync::diff::{self, Observed};
use crate::sync::drift::Wish;
use crate::sync::git::{Fetched, GitError, Mirror};
use crate::sync::handle::{SyncHandle, Waker};
use crate::sync::objects::refs_folder;
use crate::sync::progress::{Arrival, fetching};
use crate::sync::pulse::{Beat, Pulse};
use crate::sync::source::{CommitFacts, SourceConfig, SourceUrl};
use crate::sync::trigger::Trigger;
use crate::sync::verdict::{self, Applied};
use crate::sync::wire::Patience;
use crate::sync::{Metrics, inventory, observe, source_status, stored};
use crate::task::{Tasks, caught_async};

/// Hooks and pushes in between become one fetch.
const FETCH_GAP: Duration = Duration::from_secs(1);
/// After a hook without news the server's replica may lag behind: look again this soon, once.
const REPLICA_LAG: Duration = Duration::from_secs(3);
/// A fetch that is this late at its own deadline hangs.
const LATE: Duration = Duration::from_secs(60);
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// How often the verdict is computed while workloads are on their way, and after they arrived.
const LOOK_WHILE_WAITING: Duration = Duration::from_secs(1);
const LOOK_CONVERGED: Duration = Duration::from_secs(10);
/// The whole set is compared with the store: 1,000 objects take about 0.1 s.
const COMPARE: Duration = Duration::from_secs(30);
/// The same, while an object waits until the earlier one of its name is gone.
const COMPARE_UNMADE: Duration = Duration::from_secs(2);
/// A commit that waits for something to end is tried again at least this often.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// What the loops need beside the cluster.
#[derive(Clone)]
pub struct SyncOptions {
    /// The mirrors live in `git/` below it.
    pub data_dir: std::path::PathBuf,
    /// Keys the hashes that stand in for values of Secrets.
    pub secret_key: [u8; 32],
    /// Called with [`loop_name`](crate::sync::loop_name) in every turn of a source's loop.
    pub beat: Option<Beat>,
    /// What the loops count with.
    pub metrics: Metrics,
}

/// Starts the loop of every source.
pub fn run<C: Transact>(
    cluster: C,
    sources: Vec<SourceConfig>,
    options: SyncOptions,
    clock: Clock,
    tasks: &Tasks,
) -> Arc<SyncHandle> {
    let configured: Arc<[SourceConfig]> = sources.into();
    let (left, all, stop) = (cluster.clone(), configured.clone(), tasks.stop().clone());
    tasks.spawn_short("sources left behind", async move {
        // Cancel safe: what is not marked now is marked at the next start.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = stored::mark_left_behind(&left, &all) => {}
        }
    });
    let mut wakers = BTreeMap::new();
    for config in configured.iter().cloned() {
        let waker = Arc::new(Waker::default());
        wakers.insert(config.name.clone(), waker.clone());
        let span = info_span!("sync", source = %config.name);
        options.metrics.follow(&config.name);
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
            inventory: Vec::new(),
            inventory_is_stored: true,
            object: Arc::new(config.object()),
            applied: None,
            ledger: Ledger::new(Layer::Object),
            arrival: Arrival::default(),
            failures: 0,
            configured: configured.clone(),
            pulse: Pulse::new(&config.name, options.beat.clone()),
            config,
        };
        tasks.spawn("sync", follower.run().instrument(span));
    }
    Arc::new(SyncHandle::new(wakers))
}

/// How a pass ended.
enum Ended {
    /// The store holds the head.
    Applied,
    /// The head is refused or held: told, and tried again later, because what it collides with may
    /// go away without a new commit.
    Waiting,
    /// Nothing is wrong with the head, it could not enter now.
    Delayed,
}

/// What must be tried again soon. The sentence is shown.
struct Failure(String);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error.message)
    }
}

struct Follower<C> {
    cluster: C,
    config: SourceConfig,
    configured: Arc<[SourceConfig]>,
    options: SyncOptions,
    clock: Clock,
    stop: CancellationToken,
    waker: Arc<Waker>,
    mirror: Option<Arc<Mirror>>,
    commits: Commits,
    /// As it is now, and as it was last written.
    status: SourceStatus,
    stored: SourceStatus,
    inventory: Vec<InventoryEntry>,
    inventory_is_stored: bool,
    object: Arc<Source>,
    applied: Option<Applied>,
    ledger: Ledger,
    arrival: Arrival,
    failures: u32,
    pulse: Pulse,
}

impl<C: Transact> Follower<C> {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // Cancel safe: nothing is half done between two awaits but a blocking fetch, which ends by
        // its own stop flag, and a transaction, which the store finishes or never begins.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            let taken = caught_async(self.take_up()).await;
            match self.unless_panic("reading the source from the store", taken) {
                Some(Ok(())) => break,
                Some(Err(Failure(message))) => {
                    warn!(message, "source not read from the store, trying again");
                }
                None => {}
            }
            self.failures += 1;
            tokio::time::sleep(self.back_off()).await;
        }
        self.failures = 0;
        self.recall().await;
        let mut trigger = None;
        let start = Instant::now();
        let (mut next_fetch, mut next_look, mut next_compare) = (start, start, start + COMPARE);
        let mut last_fetch: Option<Instant> = None;
        loop {
            // Cancel safe: a permit of `wake` that arrives while the other arm wins stays.
            tokio::select! {
                biased;
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
                let compared = caught_async(self.compare()).await;
                self.unless_panic("comparing the store with the commit", compared);
                let is_whole = inventory::unmade(&self.inventory).is_empty();
                next_compare = Instant::now() + if is_whole { COMPARE } else { COMPARE_UNMADE };
            }
            if now >= next_look {
                let looked = caught_async(self.look()).await;
                let pause = self.unless_panic("computing the verdict", looked);
                next_look = Instant::now() + pause.unwrap_or(LOOK_CONVERGED);
            }
            let reported = caught_async(self.report()).await;
            self.unless_panic("writing the status", reported);
            self.pulse.beat();
        }
    }

    /// Takes up what an earlier run stored.
    async fn take_up(&mut self) -> Result<(), Failure> {
        let wanted = self.config.object();
        let (source, inventory) = stored::take_up(&self.cluster, &wanted, &self.configured).await?;
        self.status = source.status.clone().unwrap_or_default();
        self.stored = self.status.clone();
        self.status.unfollowed = None;
        self.object = source;
        self.inventory = inventory;
        let drifts = self.cluster.list::<Drift>(&Scope::all()).await?;
        let own = drifts.items.iter().map(AsRef::as_ref).filter(|drift: &&Drift| {
            drift.spec.origin.as_ref().is_some_and(|origin| {
                origin.source == self.config.name || self.status.formerly.contains(&origin.source)
            })
        });
        self.ledger = Ledger::restore(Layer::Object, own);
        Ok(())
    }

    /// Takes up what the applied commit wants, from the mirror: it is compared and healed also while
    /// the head is refused, held, or cannot be fetched.
    async fn recall(&mut self) {
        let Some(applied) = self.status.applied.clone() else { return };
        let read = match self.read_from_mirror(applied.id.clone()).await {
            Ok(read) => read,
            Err(error) => {
                debug!(%error, "applied commit not in the mirror");
                return;
            }
        };
        if !self.is_as_applied(&read) {
            return;
        }
        if let Ok(observed) = self.observe(&read).await {
            self.stands(&applied.id, &read, &observed);
        }
    }

    /// Whether the applied commit, read again, still means what was applied.
    fn is_as_applied(&self, read: &Read) -> bool {
        read.problems.is_empty()
            && self.status.formerly.is_empty()
            && inventory::is_of(&self.inventory, &read.set.objects)
    }

    /// What differs from the commit from now on is drift, and told as such.
    fn stands(&mut self, commit: &str, read: &Read, observed: &Observed) {
        let known = observe::known_uids(observed, &self.config.name);
        self.change_inventory(|inventory| inventory::take_uids(inventory, &known));
        self.applied = Some(Applied::of(commit, &read.set.objects));
    }

    fn watch(&self) -> Option<Trigger> {
        let SourceUrl::Local(path) = &self.config.url else { return None };
        let refs = refs_folder(path)?;
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
        let synced = caught_async(self.sync()).await;
        let ended = self.unless_panic("applying the commit", synced).unwrap_or_else(|| {
            Err(Failure("an internal error while applying the commit".to_owned()))
        });
        let poll = Duration::from_secs(u64::from(self.config.poll_seconds.max(1)))
            .mul_f64(rand::random_range(0.9..1.1));
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
            Ok(Ended::Delayed) => {
                self.failures += 1;
                poll.min(self.back_off()).min(LONGEST_DELAY)
            }
            Err(Failure(message)) => {
                self.failures += 1;
                let pause = self.back_off();
                warn!(message, again_in_seconds = pause.as_secs_f32(), "sync failed");
                pause
            }
        };
        self.report().await;
        pause
    }

    /// A panic is told, on the Source and in the log, and tried again with the timer.
    fn unless_panic<T>(&self, what: &str, done: Result<T, String>) -> Option<T> {
        done.map_err(|panic| {
            error!(what, panic, "panicked: it is tried again later");
            let message =
                format!("{what} panicked ({panic}); it is tried again, please report this");
            self.cluster.note(Note::warning(&*self.object, COMPONENT, "Quarantined", message));
        })
        .ok()
    }

    /// 1 s doubling to 5 min, ± 20 %, so that many sources of one server do not return together.
    fn back_off(&self) -> Duration {
        let doubled =
            FIRST_BACK_OFF * 2_u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        doubled.min(LONGEST_BACK_OFF).mul_f64(rand::random_range(0.8..1.2))
    }

    async fn sync(&mut self) -> Result<Ended, Failure> {
        let now = self.clock.now();
        let (name, metrics) = (self.config.name.clone(), self.options.metrics.clone());
        let fetched = match metrics.fetch(&name, self.fetch()).await {
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
            self.announcer().rewritten(&head, &old);
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
        let observed = self.observe(&read).await?;
        let problems =
            apply::every_problem(&self.cluster, &self.config.name, &read, &observed).await;
        Ok(self.refuse(&head, problems))
    }

    async fn observe(&self, read: &Read) -> Result<Observed, ApiError> {
        observe::observe(&self.cluster, &self.status, &self.inventory, &read.set).await
    }

    /// Plans and applies what was read.
    async fn enter(
        &mut self,
        head: &CommitFacts,
        read: &Read,
        is_applied: bool,
    ) -> Result<Ended, Failure> {
        let observed = self.observe(read).await?;
        let plan = diff::plan(&self.config.name, &read.set, &observed);
        if !plan.problems.is_empty() {
            return Ok(self.refuse(head, plan.problems));
        }
        // After a restart. Otherwise the same commit means something else: the source's path was
        // changed, it took over another's objects, or this version reads it differently.
        if is_applied && self.is_as_applied(read) {
            source_status::settled(&mut self.status);
            self.stands(&head.id, read, &observed);
            return Ok(Ended::Applied);
        }
        let now = self.clock.now();
        if let Some(hold) = plan.hold {
            self.announcer().held(head, &hold);
            source_status::held(&mut self.status, head, hold, now);
            return Ok(Ended::Waiting);
        }
        let uids = observe::known_uids(&observed, &self.config.name);
        let entries = inventory::entries(&read.set.objects, &uids);
        let inventory = Inventory::of(&self.config.name, &head.id, entries);
        let mut status = self.status.clone();
        source_status::applied(&mut status, head, now);
        let (name, formerly) = (&self.config.name, &self.status.formerly);
        let set = apply::set_of_commit(name, formerly, &plan.steps, &inventory, &status);
        let applying = apply::perform(&self.cluster, &plan.steps, &set, false);
        match self.options.metrics.apply(name, applying).await {
            Ok(outcomes) => {
                self.stored = status.clone();
                self.status = status;
                self.inventory = inventory.objects;
                self.inventory_is_stored = true;
                self.change_inventory(|inventory| inventory::learn_uids(inventory, &outcomes));
                self.announcer().applied(head, &apply::count(&outcomes), &plan.left_alone);
                self.applied = Some(Applied::of(&head.id, &read.set.objects));
                Ok(Ended::Applied)
            }
            Err(ApplyError::Refused(problems)) => Ok(self.refuse(head, problems)),
            Err(ApplyError::Later(why)) => {
                self.announcer().delayed(head, &why);
                source_status::delayed(&mut self.status, why);
                Ok(Ended::Delayed)
            }
        }
    }

    fn refuse(&mut self, head: &CommitFacts, problems: Vec<Problem>) -> Ended {
        self.announcer().refused(head, &problems);
        source_status::refused(&mut self.status, head, problems, self.clock.now());
        Ended::Waiting
    }

    fn announcer(&self) -> Announcer<'_, C> {
        let metrics = &self.options.metrics;
        Announcer { cluster: &self.cluster, source: &self.object, status: &self.status, metrics }
    }

    async fn fetch(&mut self) -> Result<Fetched, GitError> {
        let mirror = self.mirror().await?;
        let branch = self.config.branch.clone();
        let stop = self.stop.child_token();
        // Dropped with this future: the fetch then ends at once.
        let ended_with_us = stop.clone().drop_guard();
        let (copy, span) = (mirror.clone(), Span::current());
        let applied = self.status.applied.as_ref().map(|commit| commit.id.clone());
        let fetch = move || {
            applied.iter().for_each(|commit| copy.keep(commit));
            span.in_scope(|| copy.fetch(&branch, &stop, &fetching()))
        };
        let fetch = tokio::task::spawn_blocking(fetch);
        let result = self.pulse.during(Patience::default().whole + LATE, fetch).await;
        drop(ended_with_us);
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
        let SourceConfig { name, url, access, .. } = self.config.clone();
        let folder = self.options.data_dir.clone();
        info!(%url, branch = %self.config.branch, "fetching the repository for the first time in this run");
        let open = move || Mirror::open(&folder, &name, url, access, Patience::default());
        let opened = tokio::task::spawn_blocking(open).await;
        let mirror = Arc::new(
            opened.unwrap_or_else(|_| Err(GitError::Damaged("opening it panicked".to_owned())))?,
        );
        self.mirror = Some(mirror.clone());
        Ok(mirror)
    }

    async fn read(&mut self, commit: String) -> Result<Read, GitError> {
        let read = self.read_from_mirror(commit).await;
        if let (Err(GitError::Damaged(message)), Some(mirror)) = (&read, &self.mirror) {
            warn!(message, "mirror made anew");
            mirror.reset()?;
        }
        read
    }

    async fn read_from_mirror(&mut self, commit: String) -> Result<Read, GitError> {
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
        read
    }

    /// Compares the store with the applied commit, and heals.
    async fn compare(&mut self) {
        let Some(applied) = &self.applied else { return };
        let unmade = inventory::unmade(&self.inventory);
        let wish = Wish {
            source: &self.config.name,
            commit: &applied.commit,
            secret_key: &self.options.secret_key,
            unmade: &unmade,
        };
        let now = self.clock.now();
        let made = verdict::look(&self.cluster, wish, &applied.steps, &mut self.ledger, now).await;
        self.change_inventory(|inventory| inventory::learn_uids(inventory, &made));
    }

    /// A change is stored with the next report.
    fn change_inventory(&mut self, change: impl FnOnce(&mut [InventoryEntry])) {
        let before = self.inventory.clone();
        change(&mut self.inventory);
        self.inventory_is_stored &= self.inventory == before;
    }

    /// Computes whether the world matches; answers when to look again.
    async fn look(&mut self) -> Duration {
        let inventory = &self.inventory;
        let waiting = observe::waiting_for(&self.cluster, inventory).await;
        let drifts = observe::open_drifts(&self.cluster, &self.config.name, inventory).await;
        match (waiting, drifts) {
            (Ok(waiting), Ok(drifts)) => {
                let was = self.status.converged.as_ref().is_some_and(|verdict| verdict.converged);
                source_status::converged(&mut self.status, waiting, drifts, self.clock.now());
                let verdict = self.status.converged.as_ref();
                let is = verdict.is_some_and(|verdict| verdict.converged);
                if is && !was {
                    self.arrival.done();
                } else if let Some(verdict) = verdict.filter(|verdict| !verdict.converged) {
                    self.arrival.tell(&self.cluster, &self.inventory, verdict).await;
                }
                if is { LOOK_CONVERGED } else { LOOK_WHILE_WAITING }
            }
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "verdict not computed");
                LOOK_CONVERGED
            }
        }
    }

    /// Writes what changed, if it is worth it. A failed write is tried at the next report.
    async fn report(&mut self) {
        let key = Key::cluster(&self.config.name);
        if !self.inventory_is_stored {
            let commit = self.status.applied.as_ref().map_or("", |commit| &commit.id);
            let inventory = Inventory::of(&key.name, commit, self.inventory.clone());
            match stored::write_inventory(&self.cluster, inventory).await {
                Ok(()) => self.inventory_is_stored = true,
                Err(error) => warn!(%error, "inventory of the source not written"),
            }
        }
        if !source_status::is_worth_writing(&self.stored, &self.status) {
            return;
        }
        match stored::write_status(&self.cluster, &key, &self.status).await {
            Ok(source) => {
                self.object = source;
                self.stored = self.status.clone();
            }
            Err(error) => warn!(%error, "status of the source not written"),
        }
    }
}
