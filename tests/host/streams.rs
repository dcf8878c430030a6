//! `kubectl exec`, `cp` and `attach` into real containers, as an operator over TLS.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::harness::{Daemon, Engine, Repo, await_that, kubectl, run};

/// What the containers are made of: programs of this machine, with their libraries.
const PROGRAMS: [&str; 8] = ["sh", "tar", "cat", "sleep", "stty", "head", "printf", "sha256sum"];
pub const IMAGE: &str = "ballast.example/tools:v1";

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: tools, namespace: default}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ballast.example/tools:v1
    command: [sh, -c, "while read line; do echo heard $line; done; echo the end"]
    stdin: true
    stdinOnce: true
  - name: shell
    image: ballast.example/tools:v1
    command: [sleep, "3600"]
  - name: terminal
    image: ballast.example/tools:v1
    command: [sh, -c, "while read line; do echo said $line; done"]
    stdin: true
    tty: true
"#;

pub fn make_image(engine: &Engine) {
    let folder = engine.dir.join("tools");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).expect("a folder");
    for program in PROGRAMS {
        let found =
            run(Command::new("sh").args(["-c", &format!("readlink -f $(which {program})")]));
        let path = found.trim();
        run(Command::new("cp").arg(path).arg(bin.join(program)));
        for library in run(Command::new("ldd").arg(path)).split_whitespace() {
            if library.starts_with('/') {
                run(Command::new("cp").args(["-L", "--parents", library]).arg(&folder));
            }
        }
    }
    fs::create_dir_all(folder.join("tmp")).expect("a folder");
    let archive = engine.dir.join("tools.tar");
    run(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg("."));
    let archive = archive.to_string_lossy();
    engine.docker(&["import", "-c", "ENV PATH=/bin", &archive, IMAGE]);
}

struct Operator<'e> {
    engine: &'e Engine,
    kubeconfig: PathBuf,
}

impl Operator<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.engine.inside(kubectl());
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--cache-dir").arg(self.engine.dir.join("kube-cache")).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().expect("kubectl starts")
    }

    fn run_with(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(words);
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

    /// In a terminal of this size; both outputs, as the terminal shows them.
    fn run_in_terminal(&self, words: &str) -> Output {
        let kubectl = format!(
            "stty rows 33 cols 99; {} --kubeconfig {} {words}",
            kubectl(),
            self.kubeconfig.display()
        );
        let mut command = self.engine.inside("script");
        let command = command.args(["-qec", &kubectl, "/dev/null"]).stdin(Stdio::null());
        command.output().expect("script starts")
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn kubectl_enters_containers() {
    let engine = Engine::start();
    make_image(&engine);
    let repo = Repo::new(&engine.dir.join("repo"));
    repo.write("tools.yaml", POD);
    repo.commit("Tools");
    let config = engine.dir.join("config.yaml");
    fs::write(&config, "tls: true\noperator: true\n").expect("written");
    let (followed, config) = (repo.dir.to_string_lossy(), config.to_string_lossy());
    let mut daemon = Daemon::prepared(&engine, &[&followed, "--config", &config]);
    daemon.spawn();
    let kubeconfig = engine.dir.join("ops.yaml");
    let data_dir = daemon.data_dir.to_string_lossy().into_owned();
    let grant = ["kubeconfig", "--role", "operator", "--name", "ops", "--data-dir", &data_dir];
    await_that("a kubeconfig is printed", &daemon, || {
        let printed = daemon.ballast(&grant);
        if !printed.status.success() {
            return Err(text(&printed.stderr));
        }
        fs::write(&kubeconfig, printed.stdout).map_err(|error| error.to_string())
    });
    let operator = Operator { engine: &engine, kubeconfig };
    await_that("the pod is ready", &daemon, || {
        let words = ["wait", "--for=condition=Ready", "pod/tools", "--timeout=5s"];
        let waited = operator.run(&words);
        if waited.status.success() { Ok(()) } else { Err(text(&waited.stderr)) }
    });
    let shell = ["exec", "tools", "-c", "shell", "--"];
    let sh = |script: &str| operator.run(&[&shell[..], &["sh", "-c", script]].concat());

    // Both outputs, and the exit code.
    let ran = sh("echo out; echo err >&2; exit 7");
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert_eq!(text(&ran.stdout), "out\n");
    assert_eq!(text(&ran.stderr), "err\ncommand terminated with exit code 7\n");
    let none = operator.run(&[&shell[..], &["no-such-program"]].concat());
    assert!(matches!(none.status.code(), Some(126 | 127)), "{none:?}");
    assert!(text(&none.stdout).contains("no-such-program"), "{none:?}");
    // An output that is closed before the end of the command is not its end.
    let late = sh("exec >&- 2>&-; sleep 1; exit 9");
    assert_eq!(late.status.code(), Some(9), "{late:?}");

    // Every byte goes in and comes back, and standard input has an end.
    let input: Vec<u8> =
        (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let cat = ["exec", "-i", "tools", "-c", "shell", "--", "cat"];
    let ran = operator.run_with(&cat, &input);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert!(ran.stdout == input, "{} bytes came back", ran.stdout.len());
    // As a copy, both ways.
    let (here, back) = (engine.dir.join("here"), engine.dir.join("back"));
    fs::write(&here, &input).expect("written");
    for (from, to) in [
        (&*here.to_string_lossy(), "tools:/tmp/file"),
        ("tools:/tmp/file", &*back.to_string_lossy()),
    ] {
        let copied = operator.run(&["cp", from, to, "-c", "shell"]);
        assert!(copied.status.success(), "{from} {to}: {}", text(&copied.stderr));
    }
    assert!(fs::read(&back).expect("copied") == input);

    // A terminal: its size, and every byte that it shows.
    let script = "until [ \"$(stty size)\" = \"33 99\" ]; do sleep 0.1; done; printf \"\\001\\002\\000shown\"; exit 5";
    let ran = operator.run_in_terminal(&format!("exec -it tools -c shell -- sh -c '{script}'"));
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    assert!(text(&ran.stdout).contains("\u{1}\u{2}\u{0}shown"), "{ran:?}");

    // The main process is heard from now on; the first who attached takes its input along.
    let attach = ["attach", "-i", "tools", "-c", "main"];
    let attached = operator.run_with(&attach, b"one\ntwo\n");
    assert!(attached.status.success(), "{attached:?}");
    assert_eq!(text(&attached.stdout), "heard one\nheard two\nthe end\n", "{attached:?}");
    await_that("it is known to have ended", &daemon, || {
        let gone = operator.run(&["exec", "tools", "-c", "main", "--", "true"]);
        let told = text(&gone.stderr);
        if told.contains("container not found (\"main\")") { Ok(()) } else { Err(told) }
    });
    // One with a terminal goes on when its client goes.
    let mut command = operator.command(&["attach", "-i", "tools", "-c", "terminal"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    for round in ["first", "second"] {
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "{round}").expect("written");
        let wanted = format!("said {round}");
        let (mut heard, mut stdout) = (Vec::new(), child.stdout.take().expect("a pipe"));
        while !text(&heard).contains(&wanted) {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stdout, &mut byte).expect("it goes on");
            heard.push(byte[0]);
        }
        child.kill().expect("killed");
        child.wait().expect("ends");
    }

    let events = text(&operator.run(&["get", "events"]).stdout);
    assert!(events.contains("ops ran \"sh\" in container shell"), "{events}");
    assert!(events.contains("ops attached to container main"), "{events}");
    daemon.stop();
}
