//! The loop: Services, EndpointSlices and this node's Node in, rules out; see the folder's page.
//!
//! A change is acted on at once, and what arrives meanwhile is taken together in the next pass: the
//! restore itself is the pause between two. A timer backs the watches; every failure is tried again
//! with it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream, select_all};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::drift_report;
use crate::object::drift::{Drift, Layer};
use crate::object::ledger::Ledger;
use crate::object::source::first_commit;
use crate::object::{Change, Cluster, Key, Note, Object, Scope, reference};
use crate::task::{Tasks, caught, caught_async};

use super::book::Book;
use super::chain_name::ChainNames;
use super::drift::NodeName;
use super::kernel::{Kernel, KernelError};
use super::metrics::Metrics;
use super::programmed::{NetworkHandle, NetworkStatus, Publisher};
use super::programmer::{Look, Programmer};
use super::rule::Ports;
use super::ruleset::NodeFacts;
use super::service_port::{EndpointFacts, service_facts, slice_endpoints, slice_service};

/// The loop's name where it beats.
pub const LOOP: &str = "network";
/// Changes taken together; a list of 5,000 services is two of them.
const BATCH: usize = 4096;

/// What the loop is told at start.
#[derive(Clone)]
pub struct NetworkOptions {
    pub node_name: String,
    pub names: ChainNames,
    /// The whole cluster's pods.
    pub pod_range: Ipv4Net,
    /// This node's pods, until its Node says so itself (`spec.podCIDR`).
    pub node_range: Ipv4Net,
    pub service_range: Ipv4Net,
    pub node_ports: RangeInclusive<u16>,
    /// The pods' bridge, an interface's name.
    pub bridge: String,
    /// 2 s: how long a flush by somebody else may last.
    pub canary: Duration,
    /// 30 s: how long any other change by somebody else may last.
    pub full: Duration,
    /// The rules stay as they are until the store holds a first commit: a fresh store knows no
    /// Services, also where the disk with the last one is merely not mounted.
    pub hold: bool,
    /// Called after every completed pass.
    pub beat: Arc<dyn Fn(&'static str) + Send + Sync>,
    /// What the loop counts with.
    pub metrics: Metrics,
}

impl NetworkOptions {
    /// The numbers of ARCHITECTURE.md, for a node.
    pub fn new(node_name: impl Into<String>, names: ChainNames, bridge: impl Into<String>) -> Self {
        let pods = Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16);
        Self {
            node_name: node_name.into(),
            names,
            pod_range: pods,
            node_range: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 24),
            service_range: Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: 30000..=32767,
            bridge: bridge.into(),
            canary: Duration::from_secs(2),
            full: Duration::from_secs(30),
            hold: false,
            beat: Arc::new(|_| {}),
            metrics: Metrics::default(),
        }
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            pod_range: self.pod_range,
            node_range: self.node_range,
            addresses: BTreeSet::new(),
            service_range: self.service_range,
            node_ports: Ports { first: *self.node_ports.start(), last: *self.node_ports.end() },
            bridge_filtered: true,
            docker_user: false,
        }
    }
}

enum Seen {
    Service(Change<Arc<Service>>),
    Slice(Change<Arc<EndpointSlice>>),
    Node(Change<Arc<Node>>),
    /// The store holds a commit.
    Commit,
}

/// Starts the loop.
pub fn run<C: Cluster, K: Kernel>(
    cluster: C,
    kernel: K,
    options: NetworkOptions,
    clock: Clock,
    tasks: &Tasks,
) -> Arc<NetworkHandle> {
    let publisher = Publisher::default();
    let programmed = publisher.published();
    let (told, status) = watch::channel(NetworkStatus::Starting);
    let stop = tasks.stop().clone();
    let room = Room {
        book: Book::new(options.names.clone(), options.facts()),
        node: None,
        variant: None,
        synced: Synced { commit: !options.hold, ..Synced::default() },
        cluster,
        kernel,
        options,
        clock,
        told,
    };
    tasks.spawn(LOOP, async move {
        tokio::select! {
            biased;
            // Cancel safe where it matters: a restore that is under way is atomic in the kernel.
            () = stop.cancelled() => {}
            () = room.follow(publisher) => {}
        }
    });
    Arc::new(NetworkHandle { programmed, status })
}

/// Which watches have told their whole state once. Before all three have, rules would be taken
/// from services that are only not known yet.
#[derive(Default)]
struct Synced {
    services: bool,
    slices: bool,
    node: bool,
    /// See [`NetworkOptions::hold`].
    commit: bool,
}

impl Synced {
    fn all(&self) -> bool {
        self.services && self.slices && self.node
    }

    fn held(&self) -> bool {
        self.all() && !self.commit
    }
}

struct Room<C, K> {
    cluster: C,
    kernel: K,
    options: NetworkOptions,
    clock: Clock,
    book: Book,
    node: Option<Arc<Node>>,
    /// `None`: the kernel has not said yet that rules can be written.
    variant: Option<String>,
    synced: Synced,
    told: watch::Sender<NetworkStatus>,
}

/// The Service of a slice and what it says; `None` for a slice of no Service.
fn contents(slice: &EndpointSlice) -> Option<(Key, Vec<EndpointFacts>)> {
    slice_service(slice).map(|service| (service, slice_endpoints(slice)))
}

impl<C: Cluster, K: Kernel> Room<C, K> {
    async fn follow(mut self, publisher: Publisher) {
        let mut programmer = Programmer::new(
            self.kernel.clone(),
            self.options.names.clone(),
            self.options.bridge.clone(),
            self.ledger().await,
            publisher,
        )
        .counting(self.options.metrics.clone());
        let mut changes = self.watches().ready_chunks(BATCH);
        let mut timer = tokio::time::interval(self.options.canary);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since_full = Duration::ZERO;
        loop {
            let look = tokio::select! {
                biased;
                // Cancel safe. Before the changes: they may never pause.
                _ = timer.tick() => {
                    since_full += self.options.canary;
                    if since_full >= self.options.full {
                        since_full = Duration::ZERO;
                        Look::Full
                    } else {
                        Look::Canary
                    }
                }
                // Cancel safe: a chunk is taken whole or not at all.
                batch = changes.next() => {
                    // The watches never end while the cluster lives.
                    let Some(batch) = batch else { return };
                    batch.into_iter().for_each(|seen| self.enter(seen));
                    Look::Changes
                }
            };
            if self.synced.held() {
                debug!("the store holds no commit yet: the rules stay as they are");
                (self.options.beat)(LOOP);
            } else if self.synced.all()
                && let Err(panic) = caught_async(self.pass(&mut programmer, look)).await
            {
                error!(
                    panic,
                    "programming the rules panicked; everything is looked at anew with the timer"
                );
                programmer.doubt();
            }
        }
    }

    /// Takes up the Drifts that an earlier run left.
    async fn ledger(&self) -> Ledger {
        match self.cluster.list::<Drift>(&Scope::fields("spec.layer=network")).await {
            Ok(stored) => Ledger::restore(Layer::Network, stored.items.iter().map(Arc::as_ref)),
            Err(error) => {
                warn!(%error, "stored drifts not read");
                Ledger::new(Layer::Network)
            }
        }
    }

    fn watches(&self) -> futures::stream::SelectAll<BoxStream<'static, Seen>> {
        let own = Scope::fields(format!("metadata.name={}", self.options.node_name));
        let mut all = vec![
            self.cluster.watch::<Service>(Scope::all()).map(Seen::Service).boxed(),
            self.cluster.watch::<EndpointSlice>(Scope::all()).map(Seen::Slice).boxed(),
            self.cluster.watch::<Node>(own).map(Seen::Node).boxed(),
        ];
        if self.options.hold {
            let commit = stream::once(first_commit(&self.cluster));
            all.push(commit.map(|()| Seen::Commit).boxed());
        }
        select_all(all)
    }

    fn enter(&mut self, seen: Seen) {
        match seen {
            Seen::Service(Change::Reset(all)) => {
                self.synced.services = true;
                let read = |service: &Arc<Service>| {
                    let facts = self.read(&**service, service_facts);
                    Some((
                        service.key(),
                        facts.or_else(|| self.book.service(&service.key()).cloned())?,
                    ))
                };
                let all: Vec<_> = all.iter().filter_map(read).collect();
                self.book.reset_services(all.into_iter());
            }
            Seen::Service(Change::Applied(service)) => {
                if let Some(facts) = self.read(&*service, service_facts) {
                    self.book.set_service(service.key(), Some(facts));
                }
            }
            Seen::Service(Change::Deleted(service)) => self.book.set_service(service.key(), None),
            Seen::Slice(Change::Reset(all)) => {
                self.synced.slices = true;
                let read = |slice: &Arc<EndpointSlice>| {
                    let contents = self.read(&**slice, contents);
                    let contents = contents.unwrap_or_else(|| self.book.slice(&slice.key()));
                    contents.map(|(service, endpoints)| (slice.key(), service, endpoints))
                };
                let all: Vec<_> = all.iter().filter_map(read).collect();
                self.book.reset_slices(all.into_iter());
            }
            Seen::Slice(Change::Applied(slice)) => {
                if let Some(contents) = self.read(&*slice, contents) {
                    self.book.set_slice(slice.key(), contents);
                }
            }
            Seen::Slice(Change::Deleted(slice)) => self.book.set_slice(slice.key(), None),
            Seen::Node(Change::Reset(all)) => {
                self.synced.node = true;
                self.enter_node(all.first().cloned());
            }
            Seen::Node(Change::Applied(node)) => self.enter_node(Some(node)),
            Seen::Node(Change::Deleted(_)) => self.enter_node(None),
            Seen::Commit => self.synced.commit = true,
        }
    }

    /// `None`, and shown, where reading the object panics: what was known of it stays.
    fn read<O: Object, T>(&self, object: &O, read: impl FnOnce(&O) -> T) -> Option<T> {
        let read = caught(|| read(object));
        read.map_err(|panic| {
            error!(kind = %O::OBJECT_KIND, object = %object.key(), panic, "object quarantined: its rules stay as they are");
            self.cluster.note(Note::quarantined(reference(object), LOOP, &panic, None));
        })
        .ok()
    }

    fn enter_node(&mut self, node: Option<Arc<Node>>) {
        let spec = node.as_ref().and_then(|node| node.spec.as_ref());
        let range = spec.and_then(|spec| spec.pod_cidr.as_deref()?.parse().ok());
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let facts = NodeFacts {
            node_range: range.unwrap_or(self.options.node_range),
            addresses: addresses.filter_map(|one| one.address.parse().ok()).collect(),
            ..self.book.node().clone()
        };
        self.book.set_node(facts);
        self.node = node;
    }

    async fn pass(&mut self, programmer: &mut Programmer<K>, look: Look) {
        let now = self.clock.now();
        let hopeless = matches!(*self.told.borrow(), NetworkStatus::NotProgrammed { .. });
        if hopeless && look != Look::Full {
            (self.options.beat)(LOOP);
            return;
        }
        if self.variant.is_none() {
            match self.kernel.probe().await {
                Ok(variant) => {
                    info!(variant, "services are programmed by iptables");
                    self.variant = Some(variant);
                }
                Err(error) => return self.not_programmed(programmer, &error),
            }
        }
        let node = NodeName {
            name: self.options.node_name.clone(),
            uid: self.node.as_ref().map(|node| node.uid().to_owned()).unwrap_or_default(),
        };
        let passing = programmer.pass(&mut self.book, &node, look, now);
        match self.options.metrics.pass(look, passing).await {
            Ok(writes) => {
                self.tell_programmed(programmer);
                (self.options.beat)(LOOP);
                drift_report::perform(&self.cluster, writes).await;
            }
            Err(error) if error.is_lasting() => self.not_programmed(programmer, &error),
            Err(error) => warn!(%error, "rules not programmed; trying again with the timer"),
        }
    }

    fn tell_programmed(&self, programmer: &Programmer<K>) {
        let status = NetworkStatus::Programmed {
            services: self.book.services().count(),
            verified: programmer.verified(),
            variant: self.variant.clone().unwrap_or_default(),
            degraded: programmer.refused().to_vec(),
        };
        self.options.metrics.programmed(self.book.services().count(), programmer.endpoints());
        self.told.send_replace(status);
    }

    /// The daemon goes on without Services: said once, loudly, and looked at again with the timer.
    fn not_programmed(&mut self, programmer: &mut Programmer<K>, error: &KernelError) {
        self.variant = None;
        programmer.give_up();
        self.options.metrics.programmed(0, 0);
        (self.options.beat)(LOOP);
        let why = error.to_string();
        let status = NetworkStatus::NotProgrammed { why: why.clone() };
        if *self.told.borrow() == status {
            return;
        }
        error!(why, "services are not programmed on this node: pods run, their services do not");
        if let Some(node) = &self.node {
            let message = format!("Services are not programmed on this node: {why}");
            self.cluster.note(Note::warning(
                node.as_ref(),
                "network",
                "ServicesNotProgrammed",
                message,
            ));
        }
        self.told.send_replace(status);
    }
}
