//! Pure: host paths that give the host away. Admission judges what is written; the node judges once
//! more where it leads on its own host, for a link can lead anywhere.

/// Whoever can write below these owns the host: kernel, devices, accounts, container engines.
pub const FORBIDDEN_TREES: [&str; 10] = [
    "/dev",
    "/etc",
    "/proc",
    "/sys",
    "/run/containerd",
    "/run/docker",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/run/containerd",
    "/var/run/docker",
];
/// Mounting one of these would mount a tree of the list above, or an engine's socket.
const FORBIDDEN_PARENTS: [&str; 5] = ["/", "/run", "/var", "/var/lib", "/var/run"];

/// The path as the kernel reads it, without `.`, `..` and doubled slashes; `None` for a relative one.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// Whether a path inside a container names what is open in the process that enters it: the container
/// is begun by one of the host, and what that has open may be the host's (CVE-2024-21626).
pub fn names_open_files(path: &str) -> bool {
    let trees = ["/proc", "/dev"];
    cleaned(path).is_some_and(|clean| trees.iter().any(|tree| is_below(&clean, tree)))
}

/// Whether a path is another or stands in it, however the two are written.
pub fn is_in(path: &str, tree: &str) -> bool {
    let paths = cleaned(path).zip(cleaned(tree));
    paths.is_some_and(|(path, tree)| tree == "/" || is_below(&path, &tree))
}

/// Of two cleaned paths, whether one is the other or stands in it.
fn is_below(clean: &str, tree: &str) -> bool {
    clean == tree || clean.strip_prefix(tree).is_some_and(|rest| rest.starts_with('/'))
}

/// Why this path may not be mounted into a pod, as a clause; `None`: it may.
pub fn refusal(path: &str) -> Option<String> {
    if path.contains('\0') {
        return Some("a path has no NUL".to_owned());
    }
    let Some(clean) = cleaned(path) else {
        return Some("a host path is absolute".to_owned());
    };
    let socket = ["docker.sock", "containerd.sock"];
    let gives_away = FORBIDDEN_PARENTS.contains(&clean.as_str())
        || FORBIDDEN_TREES.iter().any(|tree| is_below(&clean, tree))
        || socket.iter().any(|name| clean.rsplit('/').next() == Some(name));
    gives_away.then(|| format!("{clean} gives the host away; mount a folder made for the pod"))
}
