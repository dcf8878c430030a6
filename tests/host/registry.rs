//! Private registries: Debian's `docker-registry` with a password on the engine's own loopback (the
//! engine speaks HTTP to nobody else), Secrets out of Git, and what is told when they are missing.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Engine, PATIENCE, Repo, await_that, run};

const REGISTRY: &str = "127.0.0.1:5000";
const USER: &str = "ann";
/// With characters whose base64 the engine reads in one alphabet only.
const PASSWORD: &str = "so>se?cret~1";
/// As `htpasswd -nbB` wrote it.
const PASSWORD_FILE: &str = "ann:$2y$05$OyBokj4EK2JUWmsCWNreRePui4o7DrR9on5PuWsCdLMyvis7izN4q\n";

/// A registry in the engine's namespace that wants a password, with one image.
struct Registry(Child);

impl Registry {
    fn start(engine: &Engine) -> Self {
        let dir = engine.dir.join("registry");
        fs::create_dir_all(&dir).expect("a directory");
        let (passwords, config) = (dir.join("htpasswd"), dir.join("config.yml"));
        fs::write(&passwords, PASSWORD_FILE).expect("the passwords");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {REGISTRY}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            dir.join("store").display(),
            passwords.display()
        );
        fs::write(&config, text).expect("the config");
        let log = fs::File::create(dir.join("log")).expect("the log");
        let mut command = engine.inside("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().expect("the log")).stderr(log).spawn();
        let registry = Self(child.expect("docker-registry starts (`make setup` installs it)"));
        let deadline = Instant::now() + PATIENCE;
        let url = format!("http://{REGISTRY}/v2/");
        while !engine.inside("curl").args(["-s", &url]).output().expect("curl").status.success() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    /// Puts an image into it, as a person with the password does, and takes it off the engine.
    fn push(engine: &Engine, from: &str, reference: &str) {
        let config = engine.dir.join("docker-client");
        let config = config.to_string_lossy();
        let docker = |arguments: &[&str]| {
            let host = engine.socket();
            let client = ["--config", &*config, "-H", &*host];
            run(engine.inside("docker").args(client).args(arguments))
        };
        docker(&["login", "-u", USER, "-p", PASSWORD, REGISTRY]);
        docker(&["tag", from, reference]);
        docker(&["push", "-q", reference]);
        docker(&["rmi", reference]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(name: &str, image: &str, secrets: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  imagePullSecrets: {secrets}\n  containers:\n  - {{name: web, image: {image}, imagePullPolicy: Always}}\n"
    )
}

fn secret(name: &str, registry: &str, password: &str) -> String {
    let config = serde_json::json!({"auths": {registry: {"username": USER, "password": password}}});
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: '{config}'\n"
    )
}

#[test]
fn private_images_are_pulled_with_the_secrets_that_a_pod_names() {
    let engine = Engine::with_images();
    let mut registry = Registry::start(&engine);
    let image = format!("{REGISTRY}/team/web:v1");
    Registry::push(&engine, "ballast.example/web:v1", &image);
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("right.yaml", &secret("right", &format!("http://{REGISTRY}/v1/team"), PASSWORD));
    repo.write("wrong.yaml", &secret("wrong", &format!("{REGISTRY}/team/web"), "wrong"));
    repo.write("with.yaml", &pod("with", &image, "[{name: wrong}, {name: right}]"));
    repo.write("without.yaml", &pod("without", &image, "[{name: missing}]"));
    repo.commit("A private image");
    let daemon = Daemon::start(&engine, &[&repo.dir.to_string_lossy()]);

    let ready = |name: &str| {
        let path = "jsonpath={.status.containerStatuses[0].ready}";
        let output = daemon.try_kubectl(&["get", "pod", name, "-o", path]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text == "true" { Ok(()) } else { Err(text) }
    };
    await_that("the pod with the Secret runs", &daemon, || ready("with"));
    let events = |name: &str| {
        let of = format!("involvedObject.name={name}");
        let path = "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}";
        daemon.kubectl(&["get", "events", "--field-selector", &of, "-o", path])
    };
    let told = events("with");
    let pulled = format!("Pulled Successfully pulled image \"{image}\" in ");
    let line = told.lines().find(|line| line.starts_with(&pulled));
    assert!(line.is_some_and(|line| line.contains(" including waiting). Image size: ")), "{told}");

    let waits = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    await_that("the pod without is refused", &daemon, || {
        let reason = daemon.kubectl(&["get", "pod", "without", "-o", waits]);
        if reason == "ImagePullBackOff" { Ok(()) } else { Err(reason) }
    });
    let told = events("without");
    for words in [
        "FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (missing); attempting to pull the image may not succeed.",
        &format!("Pulling Pulling image \"{image}\""),
        &format!("Failed Failed to pull image \"{image}\": "),
        "Failed Error: ErrImagePull",
        &format!("BackOff Back-off pulling image \"{image}\""),
        "Failed Error: ImagePullBackOff",
    ] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    assert!(!daemon.log().contains(PASSWORD) && !told.contains(PASSWORD));

    // The Secret comes by a commit: nobody waits for the end of a back-off.
    repo.write("missing.yaml", &secret("missing", REGISTRY, PASSWORD));
    repo.commit("The missing Secret");
    await_that("the other pod runs too", &daemon, || ready("without"));

    // A registry that is gone takes nothing from what runs, and says so of what is new.
    registry.0.kill().and_then(|()| registry.0.wait()).expect("the registry ends");
    repo.write("late.yaml", &pod("late", &image, "[{name: right}]"));
    repo.commit("Too late");
    await_that("the late pod is refused", &daemon, || {
        let reason = daemon.try_kubectl(&["get", "pod", "late", "-o", waits]);
        let reason = String::from_utf8_lossy(&reason.stdout).into_owned();
        if reason == "ImagePullBackOff" { Ok(()) } else { Err(reason) }
    });
    assert_eq!((ready("with"), ready("without")), (Ok(()), Ok(())));
}
