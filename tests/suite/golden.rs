//! The recorded answers of a real API server, kubectl and kube-proxy: how tests read them, and the
//! proof that none is forgotten. Each folder has a test that goes over every file of it and fails
//! for one that it neither compares nor names as left out, with the reason.

use std::fs;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::{Method, header};
use ballast::object::Kind;
use ballast::sync::document;
use serde_json::{Value, json};

use crate::api_http::ask;
use crate::fixture::Fixture;
use crate::kubectl_requests::AGGREGATED;

/// Each folder with the test that goes over all of it.
const FOLDERS: [(&str, &str); 8] = [
    ("defaults", "admission::defaults_are_the_reference_servers"),
    ("discovery", "golden::discovery_is_the_reference_servers"),
    ("kubectl-requests", "kubectl_requests::every_request_of_kubectl_is_answered_or_named"),
    ("manifests", "golden::manifests_are_read_as_kubectl_reads_them"),
    ("objects", "api_golden::every_recorded_object_is_compared"),
    ("proxy", "proxy::every_recording_of_kube_proxy_is_walked"),
    ("rejections", "admission::rejections_are_the_reference_servers"),
    ("tables", "api_golden::tables_are_kubectls"),
];

fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(below)
}

/// The files of a folder, sorted.
pub fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn text(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

pub fn value(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_folder_has_its_test() {
    assert_eq!(names(""), FOLDERS.map(|(folder, _)| folder));
    for (folder, test) in FOLDERS {
        let (file, function) = test.split_once("::").expect("a module and a function");
        let source =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/suite/{file}.rs"));
        let source = fs::read_to_string(source).expect("the module is there");
        assert!(source.contains(&format!("fn {function}()")), "{folder}: {test} is gone");
    }
}

/// What kubectl sent for these files is what our reader makes of them, document for document.
#[test]
fn manifests_are_read_as_kubectl_reads_them() {
    let mut requests: Vec<(String, Value)> = Vec::new();
    for folder in ["defaults", "rejections"] {
        for name in names(folder) {
            let file = format!("{folder}/{name}");
            requests.push((file.clone(), value(&file)["request"].take()));
        }
    }
    for name in names("manifests") {
        let read = document::read(&name, text(&format!("manifests/{name}")).as_bytes());
        assert_eq!(read.faults, [], "{name}");
        for document in read.documents {
            let same = requests.iter().position(|(_, request)| *request == document.value);
            let same = same.unwrap_or_else(|| panic!("{name}: nobody sent {:#}", document.value));
            requests.remove(same);
        }
    }
    assert!(requests.is_empty(), "no manifest makes these: {requests:#?}");
}

/// Discovery documents of groups whose kinds come with later versions.
const GROUPS_LEFT_OUT: [(&str, &str); 2] = [
    ("batch-v1.json", "Job and CronJob are not run yet"),
    ("networking-v1.json", "Ingress and NetworkPolicy are not run yet"),
];

/// Subresources of kinds that we serve, which come with later versions.
const SUBRESOURCES_LEFT_OUT: [&str; 7] =
    ["attach", "eviction", "exec", "portforward", "proxy", "resize", "token"];

/// What the reference has beyond ours: the hash of its storage, and what is left out by name.
fn comparable(mut resource: Value) -> Value {
    if let Some(body) = resource.as_object_mut() {
        body.remove("storageVersionHash");
        if let Some(parts) = body.get_mut("subresources").and_then(Value::as_array_mut) {
            parts.retain(|part| {
                !SUBRESOURCES_LEFT_OUT.iter().any(|left_out| part["subresource"] == *left_out)
            });
        }
    }
    resource
}

/// Every entry of our list is in theirs, and is the same there; entries are told apart by `names`.
fn each_is_theirs(file: &str, ours: &Value, theirs: &Value, name: impl Fn(&Value) -> Value) {
    let ours = ours.as_array().unwrap_or_else(|| panic!("{file}: no list"));
    assert!(!ours.is_empty(), "{file}");
    for entry in ours {
        let same = theirs.as_array().into_iter().flatten().find(|one| name(one) == name(entry));
        let same = same.unwrap_or_else(|| panic!("{file}: the reference has no {}", name(entry)));
        let mut same = comparable(same.clone());
        if name(entry) == "endpoints" {
            // Made of the slices: nobody writes them.
            same["verbs"] = json!(["get", "list", "watch"]);
        }
        assert_eq!(*entry, same, "{file}");
    }
}

/// All groups but our own, and that of metrics-server, which the reference does not have in itself.
fn without_ours(list: &Value, name: impl Fn(&Value) -> Value) -> Value {
    let all = list.as_array().into_iter().flatten();
    all.filter(|group| name(group) != "ballast.dev" && name(group) != "metrics.k8s.io")
        .cloned()
        .collect()
}

#[tokio::test]
async fn discovery_is_the_reference_servers() {
    let fixture = Fixture::new();
    let router = fixture.api.router();
    for file in names("discovery") {
        if GROUPS_LEFT_OUT.iter().any(|(left_out, _)| *left_out == file) {
            continue;
        }
        let theirs = value(&format!("discovery/{file}"));
        let (path, accept) = match file.as_str() {
            "api.json" => ("/api", "application/json"),
            "apis.json" => ("/apis", "application/json"),
            "api-aggregated.json" => ("/api", AGGREGATED[1]),
            "apis-aggregated.json" => ("/apis", AGGREGATED[1]),
            "api-v1.json" => ("/api/v1", "application/json"),
            "apps-v1.json" => ("/apis/apps/v1", "application/json"),
            "coordination-v1.json" => ("/apis/coordination.k8s.io/v1", "application/json"),
            "discovery-v1.json" => ("/apis/discovery.k8s.io/v1", "application/json"),
            "openapi-v3.json" => ("/openapi/v3", "application/json"),
            "version.json" => ("/version", "application/json"),
            other => panic!("{other} is compared by nobody and not named as left out"),
        };
        let answer = ask(&router, Method::GET, path, &[("accept", accept)], Body::empty()).await;
        assert_eq!(answer.code, 200, "{file}");
        let kind = answer.headers[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        assert_eq!(
            kind.contains("as=APIGroupDiscoveryList"),
            file.contains("aggregated"),
            "{file}"
        );
        let ours = answer.json();
        for field in ["kind", "apiVersion", "groupVersion", "major", "minor", "versions"] {
            // The reference leaves the apiVersion out of its oldest documents.
            if let Some(wanted) = theirs.get(field) {
                assert_eq!(ours.get(field), Some(wanted), "{file}: {field}");
            }
        }
        match file.as_str() {
            "api.json" => {}
            "version.json" => {
                let keys = |value: &Value| -> Vec<String> {
                    value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
                };
                assert_eq!(keys(&ours), keys(&theirs));
            }
            "apis.json" => {
                let name = |group: &Value| group["name"].clone();
                each_is_theirs(
                    &file,
                    &without_ours(&ours["groups"], name),
                    &theirs["groups"],
                    name,
                );
            }
            "openapi-v3.json" => {
                for (path, ours) in ours["paths"].as_object().expect("paths") {
                    if path.contains("ballast.dev") {
                        continue;
                    }
                    // Theirs ends in a hash, for caches.
                    let url =
                        |place: &Value| place["serverRelativeURL"].as_str().map(str::to_owned);
                    let (ours, theirs) = (url(ours), url(&theirs["paths"][path]));
                    let (ours, theirs) = (ours.expect("a URL"), theirs.expect("a URL"));
                    let (ours, theirs) = (ours.split_once("?hash="), theirs.split_once("?hash="));
                    assert_eq!(ours.map(|(url, _)| url), theirs.map(|(url, _)| url));
                    let hash = ours.expect("a hash").1;
                    assert_eq!(hash.len(), theirs.expect("a hash").1.len());
                }
            }
            "api-aggregated.json" | "apis-aggregated.json" => {
                let name =
                    |group: &Value| group["metadata"].get("name").cloned().unwrap_or_default();
                for group in without_ours(&ours["items"], name).as_array().expect("groups") {
                    let all = theirs["items"].as_array().into_iter().flatten();
                    let same = all.clone().find(|one| name(one) == name(group)).expect("the group");
                    let resources = |group: &Value| group["versions"][0]["resources"].clone();
                    let (ours, theirs) = (resources(group), resources(same));
                    each_is_theirs(&file, &ours, &theirs, |one| one["resource"].clone());
                }
            }
            _ => {
                let (ours, theirs) = (&ours["resources"], &theirs["resources"]);
                each_is_theirs(&file, ours, theirs, |one| one["name"].clone());
            }
        }
    }
}

/// The kind behind a plural, if this version serves it.
pub fn served(plural: &str) -> Option<Kind> {
    Kind::all().find(|kind| kind.row().plural == plural)
}
