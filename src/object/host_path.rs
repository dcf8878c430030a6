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

/// Why this path may not be mounted into a pod, as a clause; `None`: it may.
pub fn refusal(path: &str) -> Option<String> {
    if path.contains('\0') {
        return Some("a path has no NUL".to_owned());
    }
    let Some(clean) = cleaned(path) else {
        return Some("a host path is absolute".to_owned());
    };
    let below = |tree: &str| {
        clean == tree || clean.strip_prefix(tree).is_some_and(|rest| rest.starts_with('/'))
    };
    let socket = ["docker.sock", "containerd.sock"];
    let gives_away = FORBIDDEN_PARENTS.contains(&clean.as_str())
        || FORBIDDEN_TREES.iter().any(|tree| below(tree))
        || socket.iter().any(|name| clean.rsplit('/').next() == Some(name));
    gives_away.then(|| format!("{clean} gives the host away; mount a folder made for the pod"))
}
