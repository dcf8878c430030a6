//! `kubectl exec`, `cp` and `attach` with the real kubectls of the machine, over TLS and with an
//! operator's kubeconfig. They speak SPDY up to 1.29 and WebSockets from 1.30 on.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ballast::cli::GrantedRole;

use crate::kubectl_world::{Kubectl, all};
use crate::stream_world::StreamWorld;

pub struct Operator {
    pub world: StreamWorld,
    kubeconfig: PathBuf,
}

impl Operator {
    pub async fn new(role: GrantedRole) -> Self {
        let world = StreamWorld::new().await;
        let file = world.served.kubeconfig(role, "ops");
        let kubeconfig = world.served.fixture.folder().join("kubeconfig");
        let text = serde_json::to_string(&file).expect("serialises");
        std::fs::write(&kubeconfig, text).expect("written");
        Self { world, kubeconfig }
    }

    pub fn command(&self, kubectl: &Kubectl, words: &[&str]) -> Command {
        let folder = self.world.served.fixture.folder();
        let mut command = Command::new(&kubectl.program);
        command
            .env("HOME", folder)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .arg("--cache-dir")
            .arg(folder.join(format!("cache-{}", kubectl.minor)))
            .args(words);
        command
    }

    pub fn run(&self, kubectl: &Kubectl, words: &[&str]) -> Output {
        self.command(kubectl, words).stdin(Stdio::null()).output().expect("kubectl starts")
    }

    fn run_with(&self, kubectl: &Kubectl, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(kubectl, words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("it ends")
        })
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_runs_commands() {
    let operator = Operator::new(GrantedRole::Operator).await;
    for kubectl in all() {
        let minor = kubectl.minor;
        let script = "echo out; echo err >&2; exit 7";
        let ran = operator.run(kubectl, &["exec", "p", "-c", "side", "--", "sh", "-c", script]);
        assert_eq!(ran.status.code(), Some(7), "1.{minor}: {ran:?}");
        assert_eq!(text(&ran.stdout), "out\n", "1.{minor}");
        let told = "err\ncommand terminated with exit code 7\n";
        assert_eq!(text(&ran.stderr), told, "1.{minor}");
        let ran = operator.run(kubectl, &["exec", "p", "-c", "side", "--", "true"]);
        assert!(ran.status.success() && ran.stderr.is_empty(), "1.{minor}: {ran:?}");
        let input: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let words = ["exec", "-i", "p", "-c", "side", "--", "cat"];
        let ran = operator.run_with(kubectl, &words, &input);
        assert!(ran.status.success(), "1.{minor}: {}", text(&ran.stderr));
        assert!(ran.stdout == input, "1.{minor}: {} bytes", ran.stdout.len());
        // A command that ends before its input does.
        let words = ["exec", "-i", "p", "-c", "side", "--", "head", "-c", "5"];
        let ran = operator.run_with(kubectl, &words, b"hello world");
        assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(0), "hello".to_owned()));
        for (words, told) in [
            (
                &["exec", "p", "-c", "nope", "--", "true"][..],
                "container nope is not valid for pod p",
            ),
            (&["exec", "nope", "--", "true"], "pods \"nope\" not found"),
        ] {
            let ran = operator.run(kubectl, words);
            assert!(!ran.status.success());
            assert!(text(&ran.stderr).contains(told), "1.{minor}: {}", text(&ran.stderr));
        }
        let can = operator.run(kubectl, &["auth", "can-i", "create", "pods", "--subresource=exec"]);
        assert_eq!(text(&can.stdout), "yes\n", "1.{minor}");
    }
    operator.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_copies_files() {
    let operator = Operator::new(GrantedRole::Operator).await;
    let folder = operator.world.served.fixture.folder().to_owned();
    let content: Vec<u8> =
        (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let here = folder.join("here");
    std::fs::write(&here, &content).expect("written");
    for kubectl in all() {
        let there = folder.join(format!("there-{}", kubectl.minor));
        let back = folder.join(format!("back-{}", kubectl.minor));
        std::fs::create_dir(&there).expect("made");
        let path = |path: &PathBuf| path.to_str().expect("text").to_owned();
        let remote = format!("p:{}/file", path(&there));
        for words in [["cp", &path(&here), &remote], ["cp", &remote, &path(&back)]] {
            let ran = operator.run(kubectl, &[&words[..], &["-c", "side"]].concat());
            let (minor, told) = (kubectl.minor, text(&ran.stderr));
            assert!(ran.status.success(), "1.{minor}: {words:?}: {told}");
        }
        for copy in [there.join("file"), back] {
            assert!(std::fs::read(&copy).expect("read") == content, "{}", copy.display());
            std::fs::remove_file(copy).expect("removed");
        }
    }
    operator.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_attaches() {
    let operator = Operator::new(GrantedRole::Operator).await;
    let engine = &operator.world.engine;
    let id = operator.world.instance("side").id;
    for kubectl in all() {
        let mut command = operator.command(kubectl, &["attach", "p", "-c", "side"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("kubectl starts");
        while engine.attached() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        engine.say(&id, "one line\n");
        // Its end is the client's, when the last kubectl has heard it.
        if kubectl.minor == all().last().expect("one").minor {
            engine.say(&id, "and the last\n");
            engine.end(&id, 0, None);
            let ended = child.wait_with_output().expect("it ends");
            assert!(text(&ended.stdout).ends_with("one line\nand the last\n"), "{ended:?}");
            assert!(ended.status.success(), "{ended:?}");
        } else {
            let mut child = child;
            let mut stdout = child.stdout.take().expect("a pipe");
            let mut line = [0; 9];
            std::io::Read::read_exact(&mut stdout, &mut line).expect("a line");
            assert_eq!(&line, b"one line\n", "1.{}", kubectl.minor);
            child.kill().expect("killed");
            child.wait().expect("ends");
            while engine.attached() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    operator.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewers_kubectl_is_refused() {
    let viewer = Operator::new(GrantedRole::Viewer).await;
    for kubectl in all() {
        let ran = viewer.run(kubectl, &["exec", "p", "-c", "side", "--", "true"]);
        let told = text(&ran.stderr);
        let words =
            "cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"";
        assert!(!ran.status.success() && told.contains(words), "1.{}: {told}", kubectl.minor);
        let can = viewer.run(kubectl, &["auth", "can-i", "create", "pods", "--subresource=exec"]);
        assert!(text(&can.stdout).starts_with("no"), "1.{}: {can:?}", kubectl.minor);
    }
    viewer.world.end().await;
}
