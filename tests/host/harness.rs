//! What every host test stands on: a private engine, a repository, a daemon, and kubectl.
//!
//! Everything a test starts lives in a namespace `bt<pid>-<n>` and a directory of the same name and
//! is removed when the test ends; what a killed run left behind is swept at the next start.

use std::fmt::Debug;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

/// Longer than anything that works takes, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(90);

static NEXT: AtomicU32 = AtomicU32::new(0);
static PREPARED: Once = Once::new();

/// A network namespace with a containerd and a dockerd of its own.
pub struct Engine {
    pub name: String,
    pub dir: PathBuf,
    /// Its containers outlive its dockerd.
    live_restore: bool,
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn images() -> PathBuf {
    project().join("target/host-images")
}

/// Builds the example programs once and sweeps what dead runs left.
fn prepare() {
    crate::watchdog::watch();
    PREPARED.call_once(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "the host tests need root: sudo -E make host"
        );
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix("bt")
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let dir = format!("/tmp/{name}");
                run(Command::new(project().join("scripts/engine.sh")).args(["stop", &name, &dir]));
            }
        }
        run(Command::new(project().join("examples/images.sh")).arg(images()));
    });
}

impl Engine {
    pub fn start() -> Self {
        Self::start_with(true)
    }

    fn start_with(live_restore: bool) -> Self {
        prepare();
        let name = format!("bt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let engine = Self { dir: PathBuf::from(format!("/tmp/{name}")), name, live_restore };
        engine.script("start");
        engine
    }

    /// The engine with the example images loaded.
    pub fn with_images() -> Self {
        Self::start().loaded()
    }

    /// The same, and its containers end when dockerd does.
    pub fn without_live_restore() -> Self {
        Self::start_with(false).loaded()
    }

    fn loaded(self) -> Self {
        self.docker(&["load", "-q", "-i", &images().join("images.tar").to_string_lossy()]);
        self
    }

    fn script(&self, action: &str) {
        let mut command = Command::new(project().join("scripts/engine.sh"));
        command.args([action, &self.name]).arg(&self.dir);
        if !self.live_restore {
            command.env("ENGINE_LIVE_RESTORE", "");
        }
        run(&mut command);
    }

    /// Sends a signal to dockerd; TERM and KILL are waited for.
    pub fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.dir.join("dockerd.pid")).expect("dockerd runs");
        let pid = pid.trim();
        run(Command::new("kill").args([&format!("-{signal}"), pid]));
        let end = Instant::now() + PATIENCE;
        let ends = ["TERM", "KILL"].contains(&signal);
        // Whoever started it may not have buried it yet.
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
        };
        while ends && runs() {
            assert!(Instant::now() < end, "dockerd does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts dockerd after it ended.
    pub fn start_dockerd(&self) {
        self.script("start_dockerd");
    }

    pub fn socket(&self) -> String {
        format!("unix://{}/docker.sock", self.dir.display())
    }

    /// A command inside the namespace.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        run(self.inside("docker").arg("-H").arg(self.socket()).args(arguments))
    }

    /// As [`Engine::docker`], where failing is an answer.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.inside("docker")
            .arg("-H")
            .arg(self.socket())
            .args(arguments)
            .output()
            .expect("docker starts")
    }

    /// This installation's containers, as `docker ps` formats them.
    pub fn ours(&self, format: &str) -> Vec<String> {
        let text = self.docker(&[
            "ps",
            "-a",
            "--no-trunc",
            "--filter",
            "label=ballast.dev/installation",
            "--format",
            format,
        ]);
        text.lines().map(str::to_owned).collect()
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        run(self.inside("sysctl").args(["-qw", &format!("{name}={value}")]));
    }

    pub fn iptables_save(&self) -> String {
        run(&mut self.inside("iptables-save"))
    }

    /// The node's own address.
    pub fn address(&self) -> String {
        let text = run(self.inside("ip").args(["-4", "-o", "addr", "show", "dev", "eth0"]));
        text.split_whitespace()
            .nth(3)
            .and_then(|net| net.split('/').next())
            .expect("eth0 has an address")
            .to_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new(project().join("scripts/engine.sh"))
            .args(["stop", &self.name])
            .arg(&self.dir)
            .status();
    }
}

/// A Git repository that a test commits to.
pub struct Repo {
    pub dir: PathBuf,
}

impl Repo {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the repository's directory");
        run(Command::new("git").args(["init", "-q", "-b", "main"]).arg(dir));
        Self { dir: dir.to_owned() }
    }

    /// Starts from `examples/repo`.
    pub fn of_example(dir: &Path) -> Self {
        let repo = Self::new(dir);
        run(Command::new("cp").arg("-r").arg(project().join("examples/repo/.")).arg(&repo.dir));
        repo.commit("The shop opens");
        repo
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.dir.join(file);
        fs::create_dir_all(path.parent().expect("inside the repository")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.join(file)).expect("a file of the repository");
        assert!(text.contains(from), "{file} has {from:?}");
        self.write(file, &text.replace(from, to));
    }

    /// The line on which a text begins in a file.
    pub fn line(&self, file: &str, text: &str) -> usize {
        let whole = fs::read_to_string(self.dir.join(file)).expect("a file of the repository");
        let at = whole.find(text).unwrap_or_else(|| panic!("{file} has {text:?}"));
        whole[..at].lines().count() + usize::from(whole[..at].ends_with('\n') || at == 0)
    }

    /// Commits everything and gives the commit's id.
    pub fn commit(&self, message: &str) -> String {
        run(self.git().args(["add", "-A"]));
        run(self.git().args(["commit", "-q", "--allow-empty", "-m", message]));
        run(self.git().args(["rev-parse", "HEAD"])).trim().to_owned()
    }

    /// Takes the newest commit back.
    pub fn revert(&self) {
        run(self.git().args(["revert", "--no-edit", "HEAD"]));
    }

    fn git(&self) -> Command {
        let mut command = Command::new("git");
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"];
        command.arg("-C").arg(&self.dir).args(identity);
        command
    }
}

/// A running `ballast run`, inside an engine's namespace.
pub struct Daemon<'e> {
    pub engine: &'e Engine,
    pub data_dir: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    /// Behind TLS, and where kubectl's credential is; else everybody is a reader.
    kubeconfig: Option<PathBuf>,
}

impl<'e> Daemon<'e> {
    /// Starts and waits until `/readyz` is green.
    pub fn start(engine: &'e Engine, arguments: &[&str]) -> Self {
        let mut daemon = Self::prepared(engine, arguments);
        daemon.spawn();
        daemon.ready();
        daemon
    }

    /// With TLS and the role operator on; kubectl has it.
    pub fn start_for_operator(engine: &'e Engine, repo: &Repo) -> Self {
        let config = engine.dir.join("ballast.yaml");
        let repo = repo.dir.display();
        let text = format!("tls: true\noperator: true\nsources: [{{name: main, url: {repo}}}]\n");
        fs::write(&config, text).expect("the config");
        let mut daemon = Self::prepared(engine, &["--config", &config.to_string_lossy()]);
        let kubeconfig = engine.dir.join("ops.yaml");
        daemon.kubeconfig = Some(kubeconfig.clone());
        daemon.spawn();
        daemon.ready();
        let data_dir = daemon.data_dir.to_string_lossy().into_owned();
        let grant = ["kubeconfig", "--role", "operator", "--name", "ops", "--data-dir", &data_dir];
        let made = daemon.ballast(&grant);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(kubeconfig, made.stdout).expect("the kubeconfig");
        daemon
    }

    pub fn prepared(engine: &'e Engine, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let data_dir = engine.dir.join("data");
        Self { engine, data_dir, arguments, child: None, kubeconfig: None }
    }

    /// Reached from outside the namespace too, which takes TLS and credentials.
    pub fn start_secured(engine: &'e Engine, repo: &str) -> Self {
        let mut daemon = Self::prepared(engine, &[repo, "--listen", "0.0.0.0:7440"]);
        daemon.kubeconfig = Some(engine.dir.join("harness.yaml"));
        daemon.spawn();
        daemon.ready();
        let own = daemon.credential("harness");
        daemon.kubeconfig = Some(own);
        daemon
    }

    /// A kubeconfig that the command line prints for a viewer of this name.
    pub fn credential(&self, name: &str) -> PathBuf {
        let data_dir = self.data_dir.to_string_lossy();
        let arguments = ["kubeconfig", "--role", "viewer", "--name", name, "--data-dir", &data_dir];
        let printed = self.ballast(&arguments);
        assert!(printed.status.success(), "{printed:?}");
        let file = self.engine.dir.join(format!("{name}.yaml"));
        fs::write(&file, printed.stdout).expect("a kubeconfig");
        file
    }

    pub fn spawn(&mut self) {
        let command = self.engine.inside(env!("CARGO_BIN_EXE_ballast"));
        self.spawn_as(command, Some("node-1"));
    }

    /// Root in name only: the capability that changes rules is gone.
    pub fn spawn_without_net_admin(&mut self) {
        let mut command = self.engine.inside("setpriv");
        command.args([
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
            env!("CARGO_BIN_EXE_ballast"),
        ]);
        self.spawn_as(command, Some("node-1"));
    }

    /// On a host of this name, and without a name of the node's own.
    pub fn spawn_on_host(&mut self, host_name: &str) {
        let mut command = self.engine.inside("unshare");
        let rename = format!("hostname {host_name} && exec \"$0\" \"$@\"");
        command.args(["--uts", "sh", "-c", &rename, env!("CARGO_BIN_EXE_ballast")]);
        self.spawn_as(command, None);
    }

    fn spawn_as(&mut self, mut command: Command, node_name: Option<&str>) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the log");
        command.arg("run").args(&self.arguments).arg("--data-dir").arg(&self.data_dir);
        command.args(["--log", "info,ballast=debug", "--docker", &self.engine.socket()]);
        command.args(node_name.iter().flat_map(|name| ["--node-name", name]));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        self.child = Some(command.spawn().expect("ballast starts"));
    }

    fn log_file(&self) -> PathBuf {
        self.engine.dir.join("ballast.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn ready(&self) {
        await_that("readyz is green", self, || {
            let answer = self.curl("/readyz?verbose");
            if answer.contains("readyz check passed") { Ok(()) } else { Err(answer) }
        });
    }

    pub fn curl(&self, path: &str) -> String {
        let scheme = if self.kubeconfig.is_some() { "https" } else { "http" };
        let output = self
            .engine
            .inside("curl")
            .args(["-sk", "--max-time", "10", &format!("{scheme}://127.0.0.1:7440{path}")])
            .output();
        String::from_utf8_lossy(&output.expect("curl starts").stdout).into_owned()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments).output().expect("kubectl starts")
    }

    /// A kubectl that runs until it ends or the value is dropped (`-w`, `logs -f`).
    pub fn following(&self, arguments: &[&str]) -> Following {
        Following::start(self.kubectl_command(arguments).stderr(Stdio::null()))
    }

    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine.inside(kubectl());
        match &self.kubeconfig {
            Some(file) => command.env("KUBECONFIG", file),
            None => {
                command.env("KUBECONFIG", "/dev/null").args(["--server", "http://127.0.0.1:7440"])
            }
        };
        command.arg("--cache-dir").arg(self.engine.dir.join("kube-cache")).args(arguments);
        command
    }

    /// What [`Daemon::kubectl`] uses, where the API is not open to all.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// One of Ballast's own commands against this daemon.
    pub fn ballast(&self, arguments: &[&str]) -> Output {
        self.engine
            .inside(env!("CARGO_BIN_EXE_ballast"))
            .args(arguments)
            .output()
            .expect("ballast starts")
    }

    /// SIGKILL: no farewell.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// SIGTERM, and wait for the end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if child.try_wait().expect("waits").is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().expect("killed");
        panic!("ballast did not stop within 20 s of SIGTERM:\n{}", tail(&self.log()));
    }

    /// Deployment `namespace/name` has `replicas` ready pods of the wanted template.
    pub fn rolled_out(&self, namespace: &str, name: &str) {
        await_that(&format!("{namespace}/{name} is rolled out"), self, || {
            let template = "{.metadata.generation} {.status.observedGeneration} {.spec.replicas} {.status.updatedReplicas} {.status.readyReplicas} {.status.replicas}";
            let output = self.try_kubectl(&[
                "get",
                "deploy",
                "-n",
                namespace,
                name,
                "-o",
                &format!("jsonpath={template}"),
            ]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let numbers: Vec<&str> = text.split(' ').collect();
            let whole = numbers.len() == 6
                && numbers[0] == numbers[1]
                && numbers[2..].iter().all(|number| *number == numbers[2]);
            if whole {
                Ok(())
            } else {
                Err(format!("{text} {}", String::from_utf8_lossy(&output.stderr)))
            }
        });
    }
}

/// The version that the tests are written for, where a host has several; else the host's own.
pub fn kubectl() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let find = Command::new("find").args(["/usr", "-name", "kubectl*1.32*"]).output();
        let found = find.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let mut lines = found.iter().flat_map(|text| text.lines());
        lines.find(|path| is_program(path)).unwrap_or("kubectl").to_owned()
    })
}

fn is_program(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A client under way, and what it has printed so far.
pub struct Following {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Following {
    /// Its standard input stays open until [`Following::finish`] or the end of the value.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let text = Arc::new(Mutex::new(String::new()));
        let (heard, stdout) = (text.clone(), child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut text = heard.lock().expect("no panic inside");
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self { child, text }
    }

    /// Ends its standard input, which whoever reads that takes for a word to come to an end.
    pub fn finish(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Its exit, once it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waits")
    }

    pub fn text(&self) -> String {
        self.text.lock().expect("no panic inside").clone()
    }

    /// Whether it ended by itself, and well.
    pub fn has_ended(&mut self) -> bool {
        self.exit().is_some_and(|status| status.success())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's last lines:\n{}", tail(&self.log()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

/// Looks again every 100 ms until the condition holds; the last refusal is in the panic.
pub fn await_that<T, E: Debug>(
    what: &str,
    daemon: &Daemon<'_>,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(refusal) if Instant::now() > end => {
                let pods = daemon.try_kubectl(&["get", "pods,deploy,svc,drifts,events", "-A"]);
                panic!(
                    "gave up waiting until {what}: {refusal:?}\n{}",
                    String::from_utf8_lossy(&pods.stdout)
                );
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs to the end, demands success, gives standard output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
