//! The kubectls of this machine, for every test that drives a real one.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// A kubectl and how old it is.
#[derive(Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub minor: u32,
}

/// Every kubectl of this machine, one a minor version, the oldest first.
pub fn all() -> &'static [Kubectl] {
    static ALL: OnceLock<Vec<Kubectl>> = OnceLock::new();
    ALL.get_or_init(|| {
        let find = Command::new("find")
            .args(["/usr", "/opt", "-name", "kubectl*", "-type", "f", "-perm", "-u+x"])
            .output();
        let found = find.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let found = found.iter().flat_map(|text| text.lines()).map(PathBuf::from);
        // `kubectl`, `kubectl.1.32`, `kubectl-1.32`; what else begins so is a plugin.
        let found = found.filter(|path| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let version = name.trim_start_matches("kubectl").trim_start_matches(['.', '-', 'v']);
            version.is_empty() || version.starts_with(|first: char| first.is_ascii_digit())
        });
        let programs = found.chain([PathBuf::from("kubectl")]);
        let mut all: Vec<Kubectl> = programs.filter_map(kubectl).collect();
        all.sort_by_key(|kubectl| kubectl.minor);
        all.dedup_by_key(|kubectl| kubectl.minor);
        all
    })
}

fn kubectl(program: PathBuf) -> Option<Kubectl> {
    let output =
        Command::new(&program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: Value = serde_json::from_slice(&output.stdout).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()?;
    Some(Kubectl { program, minor })
}

/// Words as a shell splits them, single quotes included.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("one at least").push(other),
        }
    }
    words
}
