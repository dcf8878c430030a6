//! The network's loop over the real API and a kernel in memory.

use std::net::{Ipv4Addr, SocketAddrV4};
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
use ballast::object::{Change, Cluster, Key, Kind, Patch, Scope};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::api::{Fixture, object};
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
