//! Git over HTTPS against a real server: who is trusted, who is told the token, and that every way
//! in which a server can misbehave ends in a sentence with a next step.

use std::path::PathBuf;
use std::time::Duration;

use ballast::object::source::Source;
use ballast::object::{Cluster, Scope};
use ballast::sync::git::{Fetched, GitError, Mirror};
use ballast::sync::wire::Patience;
use ballast::sync::{Access, SourceConfig, SourceUrl, TokenFrom};
use tokio_util::sync::CancellationToken;

use crate::git_server::{Authority, Conduct, GitServer, Identity};
use crate::repository::Origin;
use crate::sync;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
const TOKEN: &str = "s3cret-token-1";

/// A repository with one commit, a server over it, and a source that trusts the server.
struct Scene {
    origin: Origin,
    server: GitServer,
    authority: Authority,
    folder: tempfile::TempDir,
    access: Access,
    patience: Patience,
    head: String,
}

impl Scene {
    fn new(conduct: Conduct) -> Self {
        let authority = Authority::new();
        let identity = authority.sign();
        Self::with(conduct, authority, &identity)
    }

    fn with(conduct: Conduct, authority: Authority, identity: &Identity) -> Self {
        let origin = Origin::new();
        let head = origin.commit(&[("a.yaml", CONFIG)]);
        let folder = tempfile::tempdir().expect("a folder");
        let root = origin.path().parent().expect("a parent");
        let server = GitServer::start(root, identity, conduct);
        let access = Access { ca_file: Some(folder.path().join("ca.pem")), ..Access::default() };
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).expect("written");
        // What hangs does so for a moment only.
        let patience = Patience { silence: Duration::from_millis(500), ..Patience::default() };
        Self { origin, server, authority, folder, access, patience, head }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn name(&self) -> String {
        self.origin.path().file_name().expect("a name").to_string_lossy().into_owned()
    }

    fn mirror_of(&self, url: &str) -> Mirror {
        let url = SourceUrl::parse(url).expect("an address");
        let data = self.folder.path().join("data");
        Mirror::open(&data, "app", url, self.access.clone(), self.patience).expect("a mirror")
    }

    fn fetch(&self) -> Result<Fetched, GitError> {
        fetch(&self.mirror_of(&self.server.url(&self.name())))
    }

    /// What a person is told, checked for what must never be in it.
    fn fault(&self) -> String {
        let fault = self.fetch().expect_err("a fault").to_string();
        assert!(!fault.contains(TOKEN), "{fault}");
        assert!(fault.starts_with("https://127.0.0.1:"), "the address is named: {fault}");
        fault
    }

    fn with_token(mut self, token: &str) -> Self {
        let path = self.file("token", &format!("{token}\n"));
        self.access.token = Some(TokenFrom::File(path));
        self
    }
}

fn fetch(mirror: &Mirror) -> Result<Fetched, GitError> {
    mirror.fetch("main", &CancellationToken::new(), &|_| {})
}

#[track_caller]
fn assert_says(fault: &str, words: &[&str]) {
    for word in words {
        assert!(fault.contains(word), "{word:?} in {fault:?}");
    }
}

#[test]
fn a_repository_is_followed_over_https() {
    let scene = Scene::new(Conduct::Serve);
    let mirror = scene.mirror_of(&scene.server.url(&scene.name()));
    assert_eq!(fetch(&mirror).expect("fetched").head.id, scene.head);
    // Enough history that the negotiation takes several questions, and then only what is new.
    let mut newest = String::new();
    for number in 0..60 {
        let text = format!("# {number}\n{CONFIG}");
        newest = scene.origin.commit(&[("a.yaml", &text)]);
    }
    assert_eq!(fetch(&mirror).expect("fetched").head.id, newest);
    let next = scene.origin.commit(&[("a.yaml", CONFIG), ("b.yaml", CONFIG)]);
    assert_eq!(fetch(&mirror).expect("fetched").head.id, next);
    let listing = mirror.objects().expect("readable").list(&next, ".").expect("listed");
    assert_eq!(listing.entries.len(), 2);
    let before = scene.server.seen().len();
    assert_eq!(fetch(&mirror).expect("fetched").head.id, next);
    assert_eq!(scene.server.seen().len(), before + 1, "no news costs one question");
    assert!(scene.server.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn only_who_is_trusted_is_believed() {
    let mut scene = Scene::new(Conduct::Serve);
    scene.access.ca_file = None;
    let fault = scene.fault();
    assert_says(&fault, &["certificate of 127.0.0.1", "no authority", "source's caFile"]);
    // Another authority's signature is none.
    scene.access.ca_file = Some(scene.file("other.pem", &Authority::new().pem));
    assert_says(&scene.fault(), &["no authority"]);
    scene.access.ca_file = Some(scene.file("none.pem", "no certificate"));
    assert_says(&scene.fault(), &["none.pem", "caFile holds no certificate"]);
    scene.access.ca_file = Some(PathBuf::from("/nowhere/ca.pem"));
    assert_says(&scene.fault(), &["/nowhere/ca.pem", "cannot be read"]);
    assert!(scene.server.seen().is_empty(), "nothing was asked of who is not trusted");
    // It is read at every fetch.
    scene.access.ca_file = Some(scene.file("ca.pem", &scene.authority.pem.clone()));
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
}

#[test]
fn a_certificate_is_for_its_names_and_its_time() {
    let authority = Authority::new();
    let identity = authority.sign_for(&["git.example", "*.git.example"], 2099);
    let scene = Scene::with(Conduct::Serve, authority, &identity);
    assert_says(&scene.fault(), &["is for", "git.example", "not for 127.0.0.1"]);

    let authority = Authority::new();
    let identity = authority.sign_for(&["127.0.0.1"], 2001);
    let scene = Scene::with(Conduct::Serve, authority, &identity);
    assert_says(&scene.fault(), &["certificate of 127.0.0.1 has expired", "renew it"]);
}

#[test]
fn a_self_signed_certificate_in_the_ca_file_is_trusted_under_its_names() {
    let identity = Identity::self_signed(&["127.0.0.1"]);
    let mut scene = Scene::with(Conduct::Serve, Authority::new(), &identity);
    assert_says(&scene.fault(), &["no authority", "caFile"]);
    scene.access.ca_file = Some(scene.file("self.pem", &identity.pem));
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);

    let elsewhere = Identity::self_signed(&["git.example"]);
    let mut scene = Scene::with(Conduct::Serve, Authority::new(), &elsewhere);
    scene.access.ca_file = Some(scene.file("self.pem", &elsewhere.pem));
    assert_says(&scene.fault(), &["not for 127.0.0.1"]);
}

#[test]
fn a_token_opens_and_a_new_one_counts_at_once() {
    let ask = Conduct::Ask { user: "git", token: TOKEN };
    let mut scene = Scene::new(ask.clone());
    assert_says(&scene.fault(), &["asks for credentials", "source's tokenFile"]);
    scene = scene.with_token("wrong");
    let fault = scene.fault();
    assert_says(&fault, &["refuses the credentials (user git, token of tokenFile /", "expired"]);
    let mirror = scene.mirror_of(&scene.server.url(&scene.name()));
    scene.file("token", TOKEN);
    assert_eq!(fetch(&mirror).expect("the mirror was not made anew").head.id, scene.head);
    scene.file("token", "two\nlines");
    assert_says(&scene.fault(), &["tokenFile", "more than one line"]);
    let place = scene.folder.path().join("token");
    std::fs::remove_file(place).expect("removed");
    assert_says(&scene.fault(), &["tokenFile", "No such file"]);

    let value = TOKEN.to_owned();
    scene.access.token = Some(TokenFrom::Variable { name: "GIT_TOKEN".into(), value });
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
    scene.server.behave(Conduct::Ask { user: "deploy", token: TOKEN });
    assert_says(&scene.fault(), &["user git", "tokenEnv GIT_TOKEN", "belongs to another user"]);
    scene.access.user = Some("deploy".to_owned());
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
}

#[test]
fn a_redirect_on_the_same_server_is_followed_and_nowhere_else() {
    let scene = Scene::new(Conduct::Moved { from: "/old", to: "" }).with_token(TOKEN);
    let old = scene.mirror_of(&scene.server.url(&format!("old/{}", scene.name())));
    assert_eq!(fetch(&old).expect("fetched").head.id, scene.head);
    let posted: Vec<_> =
        scene.server.seen().into_iter().filter(|seen| seen.method == "POST").collect();
    assert!(!posted.is_empty() && posted.iter().all(|seen| !seen.path.starts_with("/old")));
    assert!(posted.iter().all(|seen| seen.authorization.is_some()));

    // The other host is trusted, and would serve: it must not even be asked.
    let other = GitServer::start(
        scene.origin.path().parent().expect("a parent"),
        &scene.authority.sign(),
        Conduct::Serve,
    );
    for to in [
        format!("https://{}", other.address),
        format!("https://localhost:{}", other.address.port()),
        format!("//{}", other.address),
        format!("https://{}@{}", scene.server.address, other.address),
    ] {
        scene.server.behave(Conduct::Redirect { to: to.clone() });
        assert_says(&scene.fault(), &["redirects to", "another host", "source's url"]);
    }
    assert_eq!(other.connections(), 0, "nobody else is told anything");
    for to in [format!("http://{}", scene.server.address), "file://".to_owned()] {
        scene.server.behave(Conduct::Redirect { to });
        assert_says(&scene.fault(), &["redirects to", "no https:// address of the same"]);
    }
    scene.server.behave(Conduct::Redirect { to: String::new() });
    assert_says(&scene.fault(), &["redirects more than 5 times"]);
}

#[test]
fn what_a_server_answers_instead_has_a_next_step() {
    let scene = Scene::new(Conduct::Serve).with_token(TOKEN);
    let missing = scene.mirror_of(&scene.server.url("missing.git"));
    let fault = fetch(&missing).expect_err("no repository").to_string();
    assert_says(&fault, &["there is no repository at this address"]);
    for (status, content_type, words) in [
        (200, "text/html", "the answer is a web page, not Git"),
        (200, "text/plain", "the answer is text/plain, not Git"),
        (403, "text/plain", "does not let it read this repository"),
        (429, "text/plain", "come back later"),
        (503, "text/plain", "the server answers 503"),
        (418, "text/plain", "status 418"),
    ] {
        scene.server.behave(Conduct::Answer { status, content_type, body: "<html>" });
        assert_says(&scene.fault(), &[words]);
    }
    scene.server.behave(Conduct::Plain);
    assert_says(&scene.fault(), &["no TLS connection", "check that the port"]);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    let mirror = scene.mirror_of(&format!("https://{address}/a.git"));
    let fault = fetch(&mirror).expect_err("nobody").to_string();
    assert_says(&fault, &[&format!("{address} refuses the connection"), "check the port"]);
    let mirror = scene.mirror_of("https://no-such-host.invalid/a.git");
    let fault = fetch(&mirror).expect_err("nobody").to_string();
    assert_says(&fault, &["no-such-host.invalid has no address"]);
}

#[test]
fn a_server_that_stands_still_holds_nobody_up() {
    let mut scene = Scene::new(Conduct::Serve);
    for conduct in [
        Conduct::Mute,
        Conduct::NoAnswer,
        Conduct::NoBody { of: "list" },
        Conduct::NoBody { of: "pack" },
    ] {
        scene.server.behave(conduct.clone());
        let fault = scene.fault();
        assert_says(&fault, &["sent nothing for 0.5 s", "it is tried again"]);
    }
    // A byte now and then is no silence; the whole fetch has its own bound.
    scene.server.behave(Conduct::Trickle);
    scene.patience.whole = Duration::from_millis(700);
    assert_says(&scene.fault(), &["sends too slowly"]);
    scene.patience = Patience { most_bytes_of_references: 100_000, ..Patience::default() };
    scene.server.behave(Conduct::Endless);
    assert_says(&scene.fault(), &["sends more than 100000 bytes", "branches and tags"]);
    scene.patience = Patience { most_bytes: 10, ..Patience::default() };
    scene.server.behave(Conduct::Serve);
    assert_says(&scene.fault(), &["sends more than 10 bytes"]);
    scene.patience = Patience::default();
    assert_eq!(scene.fetch().expect("the mirror is as it was").head.id, scene.head);
}

#[test]
fn a_pack_that_is_cut_off_leaves_the_mirror_as_it_was() {
    let scene = Scene::new(Conduct::Serve);
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
    let second = scene.origin.commit(&[("b.yaml", CONFIG)]);
    scene.server.behave(Conduct::CutPack);
    assert_says(&scene.fault(), &["closed the connection in the middle"]);
    let mirror = scene.mirror_of(&scene.server.url(&scene.name()));
    assert!(mirror.objects().expect("readable").list(&scene.head, ".").is_ok());
    scene.server.behave(Conduct::Serve);
    assert_eq!(scene.fetch().expect("fetched").head.id, second);
}

#[test]
fn a_stop_ends_a_fetch_that_waits() {
    let mut scene = Scene::new(Conduct::NoAnswer);
    scene.patience = Patience::default();
    let stop = CancellationToken::new();
    let mirror = scene.mirror_of(&scene.server.url(&scene.name()));
    let fetching = {
        let stop = stop.clone();
        std::thread::spawn(move || mirror.fetch("main", &stop, &|_| {}))
    };
    while scene.server.seen().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.cancel();
    let fault = fetching.join().expect("no panic").expect_err("stopped").to_string();
    assert_says(&fault, &["Ballast is stopping"]);
}

#[test]
fn progress_is_told_in_objects_and_bytes() {
    let scene = Scene::new(Conduct::Serve);
    // Random bytes do not shrink: enough of them for several reports.
    let blobs: Vec<(String, String)> = (0..40)
        .map(|number| {
            let bytes: Vec<u8> = (0..20_000).map(|_| rand::random()).collect();
            (format!("{number}.bin"), hex::encode(bytes))
        })
        .collect();
    let files: Vec<(&str, &str)> =
        blobs.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    scene.origin.commit(&files);
    let told = std::cell::RefCell::new(Vec::new());
    let mirror = scene.mirror_of(&scene.server.url(&scene.name()));
    mirror
        .fetch("main", &CancellationToken::new(), &|received| told.borrow_mut().push(received))
        .expect("fetched");
    let told = told.into_inner();
    let last = told.last().expect("told");
    assert!(last.of > 40 && last.objects == last.of && last.bytes > 500_000, "{last:?}");
    assert!(told.windows(2).all(|pair| pair[0].objects <= pair[1].objects));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_tells_its_fault_and_recovers_without_a_restart() {
    let mut followed = sync::Scene::new().await;
    let head = followed.origin.commit(&[("a.yaml", CONFIG)]);
    let authority = Authority::new();
    let ask = Conduct::Ask { user: "git", token: TOKEN };
    let root = followed.origin.path().parent().expect("a parent");
    let server = GitServer::start(root, &authority.sign(), ask);
    let folder = tempfile::tempdir().expect("a folder");
    let (ca_file, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
    std::fs::write(&ca_file, &authority.pem).expect("written");
    std::fs::write(&token, "an-old-token").expect("written");
    let name = followed.origin.path().file_name().expect("a name").to_string_lossy().into_owned();
    let access = Access {
        token: Some(TokenFrom::File(token.clone())),
        ca_file: Some(ca_file),
        ..Access::default()
    };
    followed.start_configs(vec![SourceConfig {
        name: "app".to_owned(),
        url: SourceUrl::parse(&server.url(&name)).expect("an address"),
        branch: "main".to_owned(),
        path: ".".to_owned(),
        poll_seconds: 3600,
        access,
        formerly: vec![],
    }]);
    let status = followed.until("at fault", |status| status.fetch_error.is_some()).await;
    assert_says(&status.fetch_error.expect("a fault"), &["refuses the credentials", "tokenFile"]);
    let sources = followed.admin.list::<Source>(&Scope::all()).await.expect("a list");
    let shown = serde_json::to_string(&*sources.items[0]).expect("JSON");
    assert!(!shown.contains("an-old-token"), "{shown}");
    std::fs::write(&token, TOKEN).expect("written");
    let status = followed.until_applied(&head).await;
    assert_eq!(status.fetch_error, None);
}

/// No hook tells of it, and nobody can watch the files of a server.
#[tokio::test]
async fn a_push_to_a_server_is_seen_by_the_poll() {
    let mut followed = sync::Scene::new().await;
    let first = followed.origin.commit(&[("a.yaml", CONFIG)]);
    let authority = Authority::new();
    let root = followed.origin.path().parent().expect("a parent");
    let server = GitServer::start(root, &authority.sign(), Conduct::Serve);
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &authority.pem).expect("written");
    let name = followed.origin.path().file_name().expect("a name").to_string_lossy().into_owned();
    let url = SourceUrl::parse(&server.url(&name)).expect("an address");
    let access = Access { ca_file: Some(ca_file), ..Access::default() };
    let config = SourceConfig { url, access, poll_seconds: 1, ..followed.config("app", ".") };
    followed.start_configs(vec![config]);
    followed.until_applied(&first).await;
    let second = followed.origin.commit(&[("b.yaml", CONFIG)]);
    followed.until_applied(&second).await;
}
