//! The network's loop over the real API and a kernel in memory.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::network::chain_name::ChainNames;
use ballast::network::kernel::{BridgeFacts, Flow, JumpStep, Kernel, KernelError, Table, Tables};
use ballast::network::packet::{End, Host, Packet, walk};
use ballast::network::rule::Protocol;
use ballast::network::{NetworkHandle, NetworkOptions, NetworkStatus, run};
use ballast::object::drift::{Action, Drift, Phase};
use ballast::object::ports::Withdrawal;
use ballast::object::source::Source;
use ballast::object::{Change, Cluster, Key, Kind, Patch, Scope};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::fixture::{Fixture, object};
use crate::sim::fake_kernel::FakeKernel;

const ONE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 4);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 5);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> NetworkOptions {
    NetworkOptions {
        service_range: "10.97.0.0/16".parse().expect("a range"),
        canary: Duration::from_millis(50),
        full: Duration::from_millis(200),
        ..NetworkOptions::new("n1", ChainNames::default_installation(), "ballast0")
    }
}

fn endpoints(address: Ipv4Addr) -> Value {
    json!([{"addresses": [address.to_string()], "conditions": {"ready": true}}])
}

/// A Service with one endpoint, and where it can be reached.
async fn web(cluster: &impl Cluster) -> SocketAddrV4 {
    let service: Service = object(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
    let stored = cluster.create(&service).await.expect("a good Service");
    let slice: EndpointSlice = object(json!({"apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints(ONE)}));
    cluster.create(&slice).await.expect("a good slice");
    let address = stored.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    SocketAddrV4::new(address.and_then(|ip| ip.parse().ok()).expect("it was allocated"), 80)
}

async fn programmed(handle: &NetworkHandle, right: impl FnMut(&NetworkStatus) -> bool) {
    let mut status = handle.watch_status();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(right));
    reached.await.expect("in time").expect("the loop lives");
}

fn goes_to(kernel: &FakeKernel, destination: SocketAddrV4) -> Vec<End> {
    let source = Ipv4Addr::new(10, 42, 0, 9);
    let packet = Packet { source, destination, protocol: Protocol::Tcp, in_interface: None };
    let fates = walk(&kernel.tables(), &packet, &Host::default());
    fates.iter().map(|fate| fate.end).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_services_become_rules_and_stay_so() {
    let fixture = Fixture::new();
    let admin = fixture.admin();
    let service = web(&admin).await;
    let kernel = FakeKernel::new();
    let cluster = fixture.local(Identity::Network { node: "n1".to_owned() });
    let handle = run(cluster, kernel.clone(), options(), Clock::wall(), &fixture.tasks);
    programmed(&handle, |now| matches!(now, NetworkStatus::Programmed { services: 1.., .. })).await;
    assert_eq!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(ONE, 8080))]);

    let key = Key::new("default", "web-1");
    let swap = Patch::Merge(json!({"endpoints": endpoints(TWO)}));
    admin.patch::<EndpointSlice>(&key, &swap).await.expect("a good patch");
    tokio::time::timeout(PATIENCE, handle.withdrawn(ONE)).await.expect("the address is let go");
    assert_eq!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(TWO, 8080))]);
    assert!(kernel.forgotten().is_empty(), "TCP ends by itself");

    let mut drifts = Box::pin(admin.watch::<Drift>(Scope::all()));
    kernel.flush(Table::Nat);
    let healed = async {
        loop {
            let changes = match drifts.next().await.expect("a watch never ends") {
                Change::Reset(all) => all,
                Change::Applied(one) => vec![one],
                Change::Deleted(_) => vec![],
            };
            let healed = changes.iter().find(|drift| {
                let status = drift.status.as_ref();
                drift.spec.object.kind == Kind::Service
                    && status.is_some_and(|status| {
                        status.phase == Phase::Closed && status.action == Action::Healed
                    })
            });
            if let Some(drift) = healed {
                return drift.clone();
            }
        }
    };
    let drift = tokio::time::timeout(PATIENCE, healed).await.expect("it is recorded");
    assert_eq!(drift.spec.object.name, "web");
    assert_eq!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(TWO, 8080))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_nobody_changed_are_not_read_again() {
    let fixture = Fixture::new();
    let service = web(&fixture.admin()).await;
    let kernel = FakeKernel::new();
    let cluster = fixture.local(Identity::Network { node: "n1".to_owned() });
    let rarely = NetworkOptions { full: Duration::from_secs(3600), ..options() };
    let handle = run(cluster, kernel.clone(), rarely, Clock::wall(), &fixture.tasks);
    programmed(&handle, |now| matches!(now, NetworkStatus::Programmed { services: 1.., .. })).await;
    let unread = async {
        loop {
            let before = kernel.reads();
            // Several canaries.
            tokio::time::sleep(Duration::from_millis(400)).await;
            if kernel.reads() == before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, unread).await.expect("it stops reading");
    // They are known to be right all the same.
    let verified = |status: &NetworkStatus| match status {
        NetworkStatus::Programmed { verified, .. } => *verified,
        NetworkStatus::Starting | NetworkStatus::NotProgrammed { .. } => panic!("{status:?}"),
    };
    let before = verified(&handle.watch_status().borrow());
    programmed(&handle, |now| verified(now) > before).await;
    kernel.flush(Table::Nat);
    let healed = async {
        while goes_to(&kernel, service) != [End::Forwarded(SocketAddrV4::new(ONE, 8080))] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, healed).await.expect("whoever flushes is seen at once");
}

/// A host where rules cannot be written.
#[derive(Clone)]
struct Denied;

fn denied<T>() -> Result<T, KernelError> {
    Err(KernelError::NotPermitted { program: "iptables".to_owned() })
}

impl Kernel for Denied {
    async fn probe(&self) -> Result<String, KernelError> {
        denied()
    }

    async fn prepare(&self, _bridge: &str) -> BridgeFacts {
        BridgeFacts::default()
    }

    async fn generation(&self) -> Option<u32> {
        None
    }

    async fn save(&self, _table: Table) -> Result<Tables, KernelError> {
        denied()
    }

    async fn list(&self, _table: Table, _chains: &[String]) -> Result<Tables, KernelError> {
        denied()
    }

    async fn restore(&self, _text: &str) -> Result<(), KernelError> {
        denied()
    }

    async fn jump(&self, _step: &JumpStep) -> Result<(), KernelError> {
        denied()
    }

    async fn forget(&self, _flow: &Flow) -> Result<(), KernelError> {
        denied()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_it_says_so_and_holds_nobody_up() {
    let fixture = Fixture::new();
    web(&fixture.admin()).await;
    let cluster = fixture.local(Identity::Network { node: "n1".to_owned() });
    let handle = run(cluster, Denied, options(), Clock::wall(), &fixture.tasks);
    programmed(
        &handle,
        |now| matches!(now, NetworkStatus::NotProgrammed { why } if why.contains("NET_ADMIN")),
    )
    .await;
    tokio::time::timeout(PATIENCE, handle.withdrawn(ONE)).await.expect("nothing sends to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_leaves_the_rules_as_they_are_until_it_holds_a_commit() {
    let before = Fixture::new();
    let service = web(&before.admin()).await;
    let kernel = FakeKernel::new();
    let identity = Identity::Network { node: "n1".to_owned() };
    let cluster = before.local(identity.clone());
    let handle = run(cluster, kernel.clone(), options(), Clock::wall(), &before.tasks);
    programmed(&handle, |now| matches!(now, NetworkStatus::Programmed { services: 1.., .. })).await;
    before.tasks.stop().cancel();
    let mut status = handle.watch_status();
    while status.changed().await.is_ok() {}

    let after = Fixture::new();
    let (beaten, mut beats) = tokio::sync::mpsc::unbounded_channel();
    let beat = Arc::new(move |_: &'static str| {
        let _ = beaten.send(());
    });
    let options = NetworkOptions { hold: true, beat, ..options() };
    let cluster = after.local(identity);
    let handle = run(cluster, kernel.clone(), options, Clock::wall(), &after.tasks);
    // Five turns, a full look among them: it lives, and changes nothing.
    for _ in 0..5 {
        tokio::time::timeout(PATIENCE, beats.recv()).await.expect("in time").expect("it lives");
    }
    assert_eq!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(ONE, 8080))]);

    let admin = after.admin();
    let source: Source = object(json!({"metadata": {"name": "main"},
        "spec": {"url": "/r", "branch": "main", "path": ".", "pollSeconds": 60}}));
    let mut applied = (*admin.create(&source).await.expect("a source")).clone();
    let status = json!({"applied": {"id": "a".repeat(40), "at": "2026-01-01T00:00:00Z"}});
    applied.status = Some(serde_json::from_value(status).expect("a status"));
    admin.update_status(&applied).await.expect("applied");
    programmed(&handle, |now| matches!(now, NetworkStatus::Programmed { services: 0, .. })).await;
    assert_ne!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(ONE, 8080))]);
}

/// A kernel over which the first restores panic.
#[derive(Clone)]
struct Cursed {
    kernel: FakeKernel,
    left: Arc<AtomicU32>,
}

impl Kernel for Cursed {
    async fn probe(&self) -> Result<String, KernelError> {
        self.kernel.probe().await
    }

    async fn prepare(&self, bridge: &str) -> BridgeFacts {
        self.kernel.prepare(bridge).await
    }

    async fn generation(&self) -> Option<u32> {
        self.kernel.generation().await
    }

    async fn save(&self, table: Table) -> Result<Tables, KernelError> {
        self.kernel.save(table).await
    }

    async fn list(&self, table: Table, chains: &[String]) -> Result<Tables, KernelError> {
        self.kernel.list(table, chains).await
    }

    async fn restore(&self, text: &str) -> Result<(), KernelError> {
        let left = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "the kernel is cursed");
        self.kernel.restore(text).await
    }

    async fn jump(&self, step: &JumpStep) -> Result<(), KernelError> {
        self.kernel.jump(step).await
    }

    async fn forget(&self, flow: &Flow) -> Result<(), KernelError> {
        self.kernel.forget(flow).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_panics_is_made_anew() {
    let fixture = Fixture::new();
    let service = web(&fixture.admin()).await;
    let cluster = fixture.local(Identity::Network { node: "n1".to_owned() });
    let cursed = Cursed { kernel: FakeKernel::new(), left: Arc::new(AtomicU32::new(3)) };
    let handle = run(cluster, cursed.clone(), options(), Clock::wall(), &fixture.tasks);
    programmed(&handle, |now| matches!(now, NetworkStatus::Programmed { services: 1.., .. })).await;
    let kernel = cursed.kernel;
    assert_eq!(goes_to(&kernel, service), [End::Forwarded(SocketAddrV4::new(ONE, 8080))]);
    assert_eq!((cursed.left.load(Relaxed), fixture.tasks.died()), (0, 0));
}
