//! Git over SSH against a real sshd on loopback, run by the user who runs the tests: which hosts are
//! believed, which keys open, and that every failure ends in a sentence with a next step.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ballast::sync::git::{Fetched, GitError, Mirror};
use ballast::sync::wire::Patience;
use ballast::sync::{Access, SourceUrl};
use tokio_util::sync::CancellationToken;

use crate::repository::Origin;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

/// Ended by the process id it was started with.
struct Sshd {
    process: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).map(|folder| folder.join(name));
    let system = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    own.chain(system)
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run scripts/setup.sh test"))
}

fn keygen(arguments: &[&str]) {
    let done = Command::new(program("ssh-keygen"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("ssh-keygen runs");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A repository with one commit, an sshd with two host keys, and a client's key that it accepts.
struct Scene {
    origin: Origin,
    sshd: Sshd,
    folder: tempfile::TempDir,
    access: Access,
    patience: Patience,
    head: String,
}

impl Scene {
    fn new() -> Self {
        let origin = Origin::new();
        let head = origin.commit(&[("a.yaml", CONFIG)]);
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        for (kind, name) in
            [("ed25519", "host_ed25519"), ("ecdsa", "host_ecdsa"), ("ed25519", "client")]
        {
            keygen(&["-q", "-t", kind, "-N", "", "-f", &at(name)]);
        }
        std::fs::copy(at("client.pub"), at("authorized")).expect("copied");
        let sshd = Self::serve(folder.path());
        let access = Access {
            ssh_key: Some(at("client").into()),
            known_hosts: Some(at("known_hosts").into()),
            ..Access::default()
        };
        let scene = Self { origin, sshd, folder, access, patience: Patience::default(), head };
        scene.know("host_ed25519.pub");
        scene
    }

    /// sshd leaves the foreground of nobody: it is this process's child until the end.
    fn serve(folder: &Path) -> Sshd {
        // Started by root, sshd wants this folder, which an init system makes elsewhere.
        if !Path::new("/run/sshd").exists() {
            let _ = std::fs::create_dir("/run/sshd");
        }
        for _ in 0..20 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let at = |name: &str| folder.join(name).display().to_string();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nHostKey {}\nPidFile none\n\
                 AuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
                at("host_ed25519"),
                at("host_ecdsa"),
                at("authorized")
            );
            std::fs::write(folder.join("sshd_config"), config).expect("written");
            let log = std::fs::File::create(folder.join("sshd.log")).expect("a log");
            let process = Command::new(program("sshd"))
                .args(["-D", "-e", "-f", &at("sshd_config")])
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("sshd starts");
            let mut sshd = Sshd { process, port };
            while sshd.process.try_wait().expect("asked").is_none() {
                if greets(port) {
                    return sshd;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let log = std::fs::read_to_string(folder.join("sshd.log")).unwrap_or_default();
        panic!("sshd does not run: {log}")
    }

    /// The host as `known_hosts` is to know it: by this public key.
    fn know(&self, public: &str) {
        let key = std::fs::read_to_string(self.folder.path().join(public)).expect("a key");
        let line = format!("[127.0.0.1]:{} {key}", self.sshd.port);
        std::fs::write(self.folder.path().join("known_hosts"), line).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn url(&self, path: &str) -> String {
        let user = rustix::process::getuid();
        let users = std::fs::read_to_string("/etc/passwd").expect("users");
        let name = users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.get(2)? == &user.as_raw().to_string()).then(|| fields[0].to_owned())
        });
        let name = name.expect("who runs the tests has a name");
        format!("ssh://{name}@127.0.0.1:{}{path}", self.sshd.port)
    }

    fn fetch_from(&self, url: &str) -> Result<Fetched, GitError> {
        let url = SourceUrl::parse(url).expect("an address");
        let data = self.folder.path().join("data");
        let mirror = Mirror::open(&data, "app", url, self.access.clone(), self.patience);
        mirror.expect("a mirror").fetch("main", &CancellationToken::new(), &|_| {})
    }

    fn fetch(&self) -> Result<Fetched, GitError> {
        self.fetch_from(&self.url(&self.origin.path().to_string_lossy()))
    }

    #[track_caller]
    fn assert_fault(&self, words: &[&str]) {
        assert_says(self.fetch(), words);
    }
}

#[track_caller]
fn assert_says(fetched: Result<Fetched, GitError>, words: &[&str]) {
    let fault = fetched.expect_err("a fault").to_string();
    assert!(fault.starts_with("ssh://"), "the address is named: {fault}");
    for word in words {
        assert!(fault.contains(word), "{word:?} in {fault:?}");
    }
}

/// Whether an SSH server speaks there.
fn greets(port: u16) -> bool {
    let mut start = [0; 4];
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .and_then(|mut stream| stream.read_exact(&mut start))
        .is_ok_and(|()| &start == b"SSH-")
}

#[test]
fn a_repository_is_followed_over_ssh() {
    let scene = Scene::new();
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
    let mut newest = String::new();
    for number in 0..60 {
        let text = format!("# {number}\n{CONFIG}");
        newest = scene.origin.commit(&[("a.yaml", &text)]);
    }
    assert_eq!(scene.fetch().expect("fetched").head.id, newest);
    assert_eq!(scene.fetch().expect("nothing new").head.id, newest);
    let missing = scene.fetch_from(&scene.url("/no/such/repository"));
    assert_says(missing, &["there is no repository at this address"]);
    // Nothing of the address is a command for the shell at the other end.
    let trap = scene.path("trap");
    let hostile = scene.url(&format!("/x'$(touch%20{trap})`touch%20{trap}`;touch%20{trap};'"));
    assert_says(scene.fetch_from(&hostile), &["there is no repository"]);
    assert!(!Path::new(&trap).exists());
}

#[test]
fn only_a_known_host_is_believed() {
    let scene = Scene::new();
    let port = scene.sshd.port.to_string();
    std::fs::write(scene.path("known_hosts"), "other.example ssh-ed25519 AAAA\n").expect("written");
    let hint = format!("ssh-keyscan -p {port} 127.0.0.1 >> {}", scene.path("known_hosts"));
    scene.assert_fault(&["host key of 127.0.0.1 is not in", &hint, "compare its fingerprint"]);
    std::fs::remove_file(scene.path("known_hosts")).expect("removed");
    scene.assert_fault(&["host key of 127.0.0.1 is not in"]);
    assert!(!Path::new(&scene.path("known_hosts")).exists(), "nothing is trusted on first use");
    // Another key under this name: somebody may stand in between.
    scene.know("client.pub");
    let hint = format!("ssh-keygen -R '[127.0.0.1]:{port}' -f {}", scene.path("known_hosts"));
    scene.assert_fault(&["is not the one in", "somebody stands in between", &hint]);
    let line = std::fs::read_to_string(scene.path("host_ed25519.pub")).expect("a key");
    std::fs::write(scene.path("known_hosts"), format!("@revoked * {line}")).expect("written");
    scene.assert_fault(&["host key of 127.0.0.1 is revoked"]);
    // A host that has several keys is known by any of them, also where names are hashed.
    scene.know("host_ecdsa.pub");
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
    scene.know("host_ed25519.pub");
    keygen(&["-H", "-f", &scene.path("known_hosts")]);
    let hashed = std::fs::read_to_string(scene.path("known_hosts")).expect("hashed");
    assert!(hashed.starts_with("|1|"), "{hashed}");
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
}

#[test]
fn only_an_accepted_key_opens() {
    let mut scene = Scene::new();
    let stranger = scene.path("stranger");
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f", &stranger]);
    scene.access.ssh_key = Some(stranger.clone().into());
    scene.assert_fault(&[&format!("the server refuses the key {stranger}"), "deploy keys"]);
    let locked = scene.path("locked");
    keygen(&["-q", "-t", "ed25519", "-N", "a passphrase", "-f", &locked]);
    scene.access.ssh_key = Some(locked.clone().into());
    scene.assert_fault(&[&format!("the private key {locked} cannot be used"), "passphrase"]);
    let open = scene.path("open");
    std::fs::copy(scene.path("client"), &open).expect("copied");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open, mode).expect("set");
    scene.access.ssh_key = Some(open.clone().into());
    scene.assert_fault(&[&format!("the private key {open} cannot be used"), "chmod 600"]);
    scene.access.ssh_key = Some("/nowhere/key".into());
    scene.assert_fault(&["the private key /nowhere/key cannot be used", "no such file"]);
    let text = scene.path("text");
    std::fs::write(&text, "no key\n").expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&text, mode).expect("set");
    scene.access.ssh_key = Some(text.clone().into());
    scene.assert_fault(&[&format!("the private key {text} cannot be used"), "no private key"]);
    scene.access.ssh_key = Some(scene.path("client").into());
    assert_eq!(scene.fetch().expect("fetched").head.id, scene.head);
}

#[test]
fn a_server_that_stands_still_holds_nobody_up() {
    let mut scene = Scene::new();
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = mute.local_addr().expect("an address").port();
    scene.patience.silence = Duration::from_millis(500);
    let fetched = scene.fetch_from(&format!("ssh://git@127.0.0.1:{port}/a"));
    assert_says(fetched, &["sent nothing for 0.5 s"]);
    let marker = format!("-p\0{port}\0");
    let left = std::fs::read_dir("/proc").expect("processes").flatten().any(|process| {
        std::fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&marker))
    });
    assert!(!left, "the program is ended and waited for");
    drop(mute);
    let fetched = scene.fetch_from(&format!("ssh://git@127.0.0.1:{port}/a"));
    assert_says(fetched, &["refuses the connection"]);
    let fetched = scene.fetch_from("ssh://git@no-such-host.invalid/a");
    assert_says(fetched, &["no-such-host.invalid has no address"]);
}
