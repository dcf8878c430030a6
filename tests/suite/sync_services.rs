//! Addresses and ports of Services across commits: what one Service gives up another one may take
//! in the same commit, and what a Service holds it keeps, whatever the ranges are now.

use std::collections::BTreeMap;

use ballast::object::{Cluster, Key};
use k8s_openapi::api::core::v1::Service;

use crate::sync::Scene;

fn service(name: &str, rest: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n{rest}")
}

fn node_port(name: &str, port: u16) -> String {
    service(
        name,
        &format!(
            "  type: NodePort\n  selector: {{app: x}}\n  ports: [{{port: 80, nodePort: {port}}}]\n"
        ),
    )
}

async fn addresses(scene: &Scene) -> BTreeMap<String, (String, Option<i32>)> {
    let mut found = BTreeMap::new();
    for name in scene.names::<Service>().await {
        let (namespace, short) = name.split_once('/').expect("a namespace");
        let service = scene.admin.get::<Service>(&Key::new(namespace, short)).await.expect("there");
        let spec = service.spec.clone().unwrap_or_default();
        let port = spec.ports.and_then(|ports| ports[0].node_port);
        found.insert(short.to_owned(), (spec.cluster_ip.unwrap_or_default(), port));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_service_keeps_its_port_and_address() {
    let with = |name: &str| {
        node_port(name, 30080).replace("  selector", "  clusterIP: 10.43.7.7\n  selector")
    };
    let scene = Scene::with(&[("s.yaml", &with("web"))]).await;
    scene.until_applied(&scene.head()).await;
    // The name sorts before and after the old one.
    for name in ["front", "zebra", "web"] {
        let renamed = scene.commit(&[("s.yaml", &with(name))]).await;
        scene.until_applied(&renamed).await;
        let wanted = BTreeMap::from([(name.to_owned(), ("10.43.7.7".to_owned(), Some(30080)))]);
        assert_eq!(addresses(&scene).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_swap_and_pass_on_their_ports() {
    let ports =
        |a: u16, b: u16, c: u16| [node_port("a", a), node_port("b", b), node_port("c", c)].concat();
    let scene = Scene::with(&[("s.yaml", &ports(30001, 30002, 30003))]).await;
    scene.until_applied(&scene.head()).await;
    let rows = [(30002, 30001, 30003), (30001, 30003, 30002), (30003, 30001, 30004)];
    for (a, b, c) in rows {
        let commit = scene.commit(&[("s.yaml", &ports(a, b, c))]).await;
        scene.until_applied(&commit).await;
        let found: Vec<i32> =
            addresses(&scene).await.values().filter_map(|(_, port)| *port).collect();
        assert_eq!(found, [i32::from(a), i32::from(b), i32::from(c)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_its_holder_keeps_is_refused_at_the_one_that_asks() {
    let silent = service("a", "  type: NodePort\n  selector: {app: x}\n  ports: [{port: 80}]\n");
    let scene = Scene::with(&[("a.yaml", &node_port("a", 30080))]).await;
    scene.until_applied(&scene.head()).await;
    // `a` names no port any more, so it keeps the one it has.
    let asked = scene.commit(&[("a.yaml", &silent), ("0.yaml", &node_port("b", 30080))]).await;
    let problems = scene.until_refused(&asked).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("0.yaml:"), "{problems:?}");
    assert!(problems[0].contains("provided port is already allocated"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_keeps_what_it_holds_when_the_ranges_change() {
    let mut scene = Scene::with(&[("s.yaml", &node_port("web", 30080))]).await;
    scene.until_applied(&scene.head()).await;
    let before = addresses(&scene).await;
    scene.stop().await;
    scene.serve_ranges("10.63.0.0/16", 31_000..=31_999);
    scene.start("app", ".");
    let more = [node_port("web", 30080), service("new", "  ports: [{port: 80}]\n")].concat();
    let more = more.replace("ports: [{port: 80, nodePort", "ports: [{name: x, port: 80, nodePort");
    let commit = scene.commit(&[("s.yaml", &more)]).await;
    scene.until_applied(&commit).await;
    let after = addresses(&scene).await;
    assert_eq!(after["web"], before["web"]);
    assert!(after["new"].0.starts_with("10.63."), "{after:?}");
    // A new wish outside the ranges is still refused.
    let outside = scene.commit(&[("s.yaml", &node_port("web", 30081))]).await;
    let problems = scene.until_refused(&outside).await;
    assert!(problems[0].contains("The range of valid ports is 31000-31999"), "{problems:?}");
}
