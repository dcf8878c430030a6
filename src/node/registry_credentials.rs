//! Pure: with which credentials a pod's images are pulled: its `imagePullSecrets`, matched to an image
//! as the kubelet's credential provider does (`credentialprovider/keyring.go`).
//!
//! A Secret names registries as `host[:port][/path]`, with or without a scheme; `*`, `?` and `[a-z]`
//! stand for parts of one label of the host. An entry fits an image whose host has as many labels and
//! the same port, and whose path begins with the entry's. Of several that fit each is tried in turn, the
//! more specific first (entries in reverse order of their text). `index.docker.io` is Docker Hub.
//!
//! The engine's own `~/.docker/config.json` is not read: it is of the person who runs `docker`. Whatever
//! is on the node may be run by every pod there (`IfNotPresent` as before Kubernetes 1.33): a pod that
//! must prove its right to an image says `imagePullPolicy: Always`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;

use crate::node::environment::Sources;
use crate::object::{Key, Object};

/// How Docker Hub is named in a client's configuration.
const HUB: &str = "index.docker.io";

/// What is said to a registry. Never printed.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// In place of a password, where a registry gave one.
    pub identity_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// Everything to try for an image, in order; nothing: it is pulled as nobody. Or why it is not pulled.
pub type Means = Result<Vec<Credentials>, String>;

/// What the Secrets of a pod hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// In the order in which they are tried: `host[:port][/path]` and what is said there.
    entries: Vec<(String, Credentials)>,
    /// Named, and not there.
    pub missing: Vec<String>,
    /// Why a Secret cannot be read. Nothing is pulled then, as in Kubernetes.
    fault: Option<String>,
}

/// `None`: a Secret that the pod names is not known yet.
pub fn keyring(pod: &Pod, sources: &Sources) -> Option<Keyring> {
    let mut keyring = Keyring::default();
    for name in named(pod) {
        let key = Key::new(pod.key().namespace, name);
        match sources.secrets.get(&key)? {
            None => keyring.missing.push(name.to_owned()),
            Some(secret) => match entries(secret) {
                Ok(entries) => keyring.entries.extend(entries),
                Err(why) => keyring.fault = Some(format!("secret \"{name}\": {why}")),
            },
        }
    }
    // Stable: of the same registry the Secret that is named first is tried first.
    keyring.entries.sort_by(|(one, _), (other, _)| other.cmp(one));
    Some(keyring)
}

/// The Secrets that a pod's images are pulled with.
pub fn named(pod: &Pod) -> impl Iterator<Item = &str> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|secret| &*secret.name).filter(|name| !name.is_empty())
}

impl Keyring {
    /// With what an image is pulled.
    pub fn lookup(&self, image: &str) -> Means {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let repository = repository(image);
        let of = |fits: &dyn Fn(&str) -> bool| -> Vec<Credentials> {
            let fitting = self.entries.iter().filter(|(registry, _)| fits(registry));
            fitting.map(|(_, credentials)| credentials.clone()).collect()
        };
        let found = of(&|registry| fits(registry, &repository));
        if found.is_empty() && repository.starts_with("docker.io/") {
            return Ok(of(&|registry| registry == HUB));
        }
        Ok(found)
    }
}

/// One registry in a Secret.
#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// Base64 of `username:password`; counts before both.
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// A Secret of another type holds none. The sentences quote nothing of what stands in it.
fn entries(secret: &Secret) -> Result<Vec<(String, Credentials)>, String> {
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let unreadable = |_| "its content is no configuration of a Docker client".to_owned();
    let all: BTreeMap<String, Entry> = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => match value(".dockerconfigjson") {
            Some(json) => {
                serde_json::from_slice::<DockerConfig>(&json.0).map_err(unreadable)?.auths
            }
            None => return Ok(Vec::new()),
        },
        Some("kubernetes.io/dockercfg") => match value(".dockercfg") {
            Some(json) => serde_json::from_slice(&json.0).map_err(unreadable)?,
            None => return Ok(Vec::new()),
        },
        _ => return Ok(Vec::new()),
    };
    all.into_iter()
        .map(|(registry, entry)| Ok((registry_key(&registry), credentials(entry)?)))
        .collect()
}

fn credentials(entry: Entry) -> Result<Credentials, String> {
    let Entry { username, password, auth, identity_token } = entry;
    let identity_token = identity_token.filter(|token| !token.is_empty());
    if auth.is_empty() {
        return Ok(Credentials { username, password, identity_token });
    }
    let relaxed =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&STANDARD, relaxed).decode(auth.trim());
    let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = pair.ok_or_else(|| {
        "unable to parse auth field, must be formatted as base64(username:password)".to_owned()
    })?;
    // Docker pads the fields of its own file with zeros.
    let password = password.trim_matches('\0');
    Ok(Credentials { username: username.into(), password: password.into(), identity_token })
}

/// `https://quay.io/v1/team` is `quay.io/team`: scheme and version of the protocol say nothing.
fn registry_key(written: &str) -> String {
    let bare = written.strip_prefix("https://").or_else(|| written.strip_prefix("http://"));
    let bare = bare.unwrap_or(written);
    let (host, path) = bare.find('/').map_or((bare, ""), |at| bare.split_at(at));
    let versionless =
        if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    if versionless == "/" { host.to_owned() } else { format!("{host}{versionless}") }
}

/// `host[:port]/path` of an image, without tag and digest, as distribution/reference completes it.
fn repository(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let name = name[last..].find(':').map_or(name, |colon| &name[..last + colon]);
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", name),
    };
    let host = if host == HUB { "docker.io" } else { host };
    if host == "docker.io" && !path.contains('/') {
        return format!("docker.io/library/{path}");
    }
    format!("{host}/{path}")
}

/// Whether an entry of a Secret is for the repository.
fn fits(entry: &str, repository: &str) -> bool {
    let parts = |text: &str| {
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        let labels: Vec<String> = name.split('.').map(str::to_owned).collect();
        (labels, port.to_owned(), path.to_owned())
    };
    let (patterns, port, path) = parts(entry);
    let (labels, wanted_port, wanted_path) = parts(repository);
    port == wanted_port
        && patterns.len() == labels.len()
        && wanted_path.starts_with(&path)
        && patterns.iter().zip(&labels).all(|(pattern, label)| {
            matches(&pattern.chars().collect::<Vec<_>>(), &label.chars().collect::<Vec<_>>())
        })
}

/// Go's `filepath.Match` for one label: `*`, `?` and `[a-z]`, `[^a-z]`.
fn matches(pattern: &[char], label: &[char]) -> bool {
    match (pattern, label) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=label.len()).any(|skipped| matches(rest, &label[skipped..])),
        (['?', rest @ ..], [_, left @ ..]) => matches(rest, left),
        (['[', rest @ ..], [one, left @ ..]) => {
            let Some(end) = rest.iter().position(|c| *c == ']') else { return false };
            let (class, negated) = match &rest[..end] {
                ['^', class @ ..] => (class, true),
                class => (class, false),
            };
            is_in(class, *one) != negated && matches(&rest[end + 1..], left)
        }
        ([exact, rest @ ..], [one, left @ ..]) => exact == one && matches(rest, left),
        _ => false,
    }
}

fn is_in(class: &[char], one: char) -> bool {
    match class {
        [from, '-', to, rest @ ..] => (*from..=*to).contains(&one) || is_in(rest, one),
        [exact, rest @ ..] => *exact == one || is_in(rest, one),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::prelude::BASE64_STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::node::pod_plan::tests::pod;

    fn secret(kind: &str, key: &str, content: &Value) -> Secret {
        let content = BASE64_STANDARD.encode(content.to_string());
        serde_json::from_value(json!({"type": kind, "data": {key: content}})).expect("a secret")
    }

    fn config(auths: &Value) -> Secret {
        secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!({"auths": auths}))
    }

    /// The keyring of a pod that names these Secrets as s0, s1 …
    fn ring(secrets: Vec<Option<Secret>>) -> Keyring {
        let names: Vec<Value> =
            (0..secrets.len()).map(|number| json!({"name": format!("s{number}")})).collect();
        let pod = pod(json!({"spec": {"imagePullSecrets": names}}));
        let mut sources = Sources::default();
        for (number, secret) in secrets.into_iter().enumerate() {
            let key = Key::new("n", format!("s{number}"));
            sources.secrets.insert(key, secret.map(Arc::new));
        }
        keyring(&pod, &sources).expect("all are known")
    }

    fn users(ring: &Keyring, image: &str) -> Vec<String> {
        let found = ring.lookup(image).expect("whole Secrets");
        found.into_iter().map(|found| found.username).collect()
    }

    /// One entry for each registry, the user called as the registry.
    fn ring_of(registries: &[&str]) -> Keyring {
        let auths: serde_json::Map<String, Value> = registries
            .iter()
            .map(|name| ((*name).to_owned(), json!({"username": name, "password": "p"})))
            .collect();
        ring(vec![Some(config(&Value::Object(auths)))])
    }

    #[test]
    fn registries_match_as_the_kubelets_do() {
        for (registry, image, fits) in [
            ("quay.io", "quay.io/team/web:v1", true),
            ("https://quay.io", "quay.io/team/web@sha256:1", true),
            ("https://quay.io/v2/", "quay.io/web", true),
            ("quay.io/team", "quay.io/team/web", true),
            ("https://quay.io/v1/team", "quay.io/team/web", true),
            ("quay.io/other", "quay.io/team/web", false),
            ("quay.io", "docker.quay.io/web", false),
            ("*.quay.io", "docker.quay.io/web", true),
            ("*.quay.io", "quay.io/web", false),
            ("*.quay.io", "a.b.quay.io/web", false),
            ("d*r.quay.io", "docker.quay.io/web", true),
            ("r[0-9].quay.io", "r7.quay.io/web", true),
            ("r[^0-9].quay.io", "r7.quay.io/web", false),
            ("r?.quay.io", "r7.quay.io/web", true),
            ("quay.io:5000", "quay.io/web", false),
            ("quay.io", "quay.io:5000/web", false),
            ("127.0.0.1:5000", "127.0.0.1:5000/web:v1", true),
            ("localhost:5000", "localhost:5000/web", true),
            ("https://index.docker.io/v1/", "web", true),
            ("https://index.docker.io/v1/", "team/web:v1", true),
            ("https://index.docker.io/v1/", "index.docker.io/web", true),
            ("https://index.docker.io/v1/", "quay.io/web", false),
            ("docker.io", "web", true),
            ("docker.io/team", "web", false),
        ] {
            let found = !users(&ring_of(&[registry]), image).is_empty();
            assert_eq!(found, fits, "{registry} for {image}");
        }
    }

    #[test]
    fn the_more_specific_is_tried_first_and_each_in_turn() {
        let ring = ring_of(&["quay.io", "quay.io/team", "quay.io/team/web", "*.io", "other.io"]);
        let tried = users(&ring, "quay.io/team/web:v1");
        assert_eq!(tried, ["quay.io/team/web", "quay.io/team", "quay.io", "*.io"]);
        assert_eq!(users(&ring, "quay.io/x"), ["quay.io", "*.io"]);
    }

    #[test]
    fn of_one_registry_in_two_secrets_both_are_tried_in_their_order() {
        let of = |user: &str| Some(config(&json!({"r.io": {"username": user, "password": "p"}})));
        let ring = ring(vec![of("b"), None, of("a")]);
        assert_eq!(users(&ring, "r.io/web"), ["b", "a"]);
        assert_eq!(ring.missing, ["s1"]);
    }

    #[test]
    fn every_form_of_an_entry_is_read() {
        let padded = BASE64_STANDARD.encode("u:p:q");
        let bare = padded.trim_end_matches('=').to_owned();
        for auth in [padded, bare] {
            // What stands in `auth` counts before the fields beside it.
            let entry = json!({"r.io": {"auth": auth, "username": "old", "email": "x"}});
            let old = secret("kubernetes.io/dockercfg", ".dockercfg", &entry);
            for secret in [config(&entry), old] {
                let found = ring(vec![Some(secret)]).lookup("r.io/web").expect("whole");
                assert_eq!((&*found[0].username, &*found[0].password), ("u", "p:q"));
            }
        }
        let token = config(&json!({"r.io": {"identitytoken": "t"}}));
        let found = ring(vec![Some(token)]).lookup("r.io/web").expect("whole");
        assert_eq!(found[0].identity_token.as_deref(), Some("t"));
        let opaque = secret("Opaque", ".dockerconfigjson", &json!({"auths": {"r.io": {}}}));
        assert_eq!(ring(vec![Some(opaque)]), Keyring::default());
    }

    #[test]
    fn what_cannot_be_read_is_told_without_its_words() {
        for content in [json!({"r.io": {"auth": "hunter2-no-base64"}}), json!({"r.io": "hunter2"})]
        {
            let fault = ring(vec![Some(config(&content))]).lookup("web").expect_err("a fault");
            assert!(fault.starts_with("secret \"s0\": ") && !fault.contains("hunter2"), "{fault}");
        }
        let known = Credentials { password: "hunter2".into(), ..Credentials::default() };
        assert!(!format!("{known:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_that_nobody_told_of_yet_is_waited_for() {
        let pod = pod(json!({"spec": {"imagePullSecrets": [{"name": "s"}, {"name": ""}]}}));
        let mut sources = Sources::default();
        assert_eq!(keyring(&pod, &sources), None);
        sources.secrets.insert(Key::new("n", "s"), None);
        let known = keyring(&pod, &sources).expect("all are known");
        assert_eq!((known.lookup("web"), known.missing), (Ok(vec![]), vec!["s".to_owned()]));
    }
}
