//! What of a host is looked at before a container is made: the user of its image, the host's profiles
//! and resolver. What is made of it is decided in `confinement.rs` and `resolver.rs`.

use std::path::{Component, Path};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::task::spawn_blocking;

use crate::node::agent::Agent;
use crate::node::capacity::Engine;
use crate::node::confinement::{self, Confined, Seccomp, SeccompSource};
use crate::node::resolver::{self, Resolver};
use crate::node::runtime::Runtime;
use crate::object::privilege::Privileges;
use crate::object::{Cluster, host_path};

/// Below the data directory: the seccomp profiles that pods may name as `Localhost`, put there by the
/// host's operator.
const SECCOMP: &str = "seccomp";
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// As whom and behind which filter a container runs.
///
/// # Errors
/// Why it may not run here, for its status.
pub async fn confined<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    engine: &Engine,
    pod: &Arc<Pod>,
    container: &Container,
) -> Result<Confined, String> {
    if let Some(refusal) = confinement::app_armor_refusal(pod, container, engine.app_armor) {
        return Err(refusal);
    }
    if has_host_path(pod) {
        let (pod, root) = (pod.clone(), engine.data_root.clone());
        let privileges = agent.options.privileges.clone();
        let looking = spawn_blocking(move || host_path_refusal(&pod, &privileges, &root)).await;
        if let Some(why) = looking.expect("following links does not panic") {
            return Err(why);
        }
    }
    let mut of_image = String::new();
    if confinement::asks_for_image_user(pod, container) {
        let image = container.image.as_deref().unwrap_or_default();
        let facts = agent.runtime.image(image).await.map_err(|error| error.to_string())?;
        of_image = facts.ok_or_else(|| format!("the image {image} is gone"))?.user;
    }
    let user = confinement::user(pod, container, &of_image)?;
    let seccomp = match confinement::seccomp(pod, container) {
        SeccompSource::Known(known) => known,
        SeccompSource::File(file) => {
            read_profile(&agent.options.data_dir.join(SECCOMP), &file).await?
        }
    };
    Ok(Confined { user, seccomp })
}

fn has_host_path(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| volume.host_path.is_some())
}

/// Why a host path of a pod may not be mounted although it was admitted: by links it leads where its
/// namespace has no business, or into the engine's own directory. Blocks on the disk.
pub fn host_path_refusal(pod: &Pod, privileges: &Privileges, engine_root: &str) -> Option<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let Some(path) = volume.host_path.as_ref().map(|source| source.path.as_str()) else {
            continue;
        };
        // What is not there yet is judged when it was made.
        let Ok(real) = Path::new(path).canonicalize() else { continue };
        let real = real.to_string_lossy();
        let of_engine = !engine_root.is_empty()
            && (host_path::is_in(&real, engine_root) || host_path::is_in(engine_root, &real));
        let leads_away = !host_path::is_in(&real, path) && !privileges.host_path(namespace, &real);
        let why = if of_engine {
            format!("{real} is, is in or holds the engine's own {engine_root}")
        } else if leads_away {
            format!("it leads to {real}, which the daemon does not allow namespace \"{namespace}\"")
        } else {
            continue;
        };
        let name = &volume.name;
        return Some(format!(
            "MountVolume.SetUp failed for volume \"{name}\" : hostPath {path}: {why}"
        ));
    }
    None
}

async fn read_profile(folder: &Path, file: &str) -> Result<Seccomp, String> {
    let path = folder.join(file);
    let failed = |why: &str| format!("cannot load seccomp profile \"{}\": {why}", path.display());
    let is_below = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_below {
        return Err(failed("it is not below the folder of profiles"));
    }
    let text = tokio::fs::read_to_string(&path).await;
    text.map(Seccomp::Given).map_err(|error| failed(&error.to_string()))
}

/// What the host itself resolves by; where it asks itself, what stands behind that.
pub async fn host_resolver(for_host: bool) -> Resolver {
    let mut found = Resolver::default();
    for path in RESOLVERS {
        let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
        found = resolver::parse(&text, for_host);
        if !found.servers.is_empty() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::object::privilege::{Flags, WrittenAll};

    #[test]
    fn a_link_leads_only_where_the_namespace_may_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        for name in ["mine/inner", "shared", "other", "engine/volumes"] {
            fs::create_dir_all(root.join(name)).expect("made");
        }
        for (link, to) in
            [("in", "mine/inner"), ("shared", "shared"), ("out", "other"), ("engine", "engine")]
        {
            symlink(root.join(to), root.join("mine").join(link)).expect("a link");
        }
        let (mut written, mut flags) = (WrittenAll::new(), Flags::default());
        let allow = |path: &str| format!("shop:{}", root.join(path).display());
        flags.host_paths = vec![allow("mine"), allow("shared")];
        flags.add_to(&mut written, &mut Vec::new());
        let privileges = Privileges::read(written, Vec::new(), &mut Vec::new());
        let engine = root.join("engine").display().to_string();
        let refused = |path: &str| {
            let path = root.join(path).display().to_string();
            let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "shop"},
                "spec": {"containers": [], "volumes": [{"name": "v", "hostPath": {"path": path}}]}}))
            .expect("a pod");
            host_path_refusal(&pod, &privileges, &engine)
        };
        for fine in ["mine", "mine/inner", "mine/in", "mine/shared", "mine/none", "shared"] {
            assert_eq!(refused(fine), None, "{fine}");
        }
        // What was admitted before there was a list goes on, as long as it leads nowhere else.
        assert_eq!(refused("other"), None);
        assert!(refused("mine/out").is_some_and(|why| why.contains("does not allow namespace")));
        for path in ["mine/engine", "mine/engine/volumes", "engine", "."] {
            assert!(refused(path).is_some_and(|why| why.contains("the engine's own")), "{path}");
        }
    }

    #[tokio::test]
    async fn a_profile_is_a_file_of_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("sub")).expect("made");
        fs::write(folder.path().join("sub/a.json"), "{}").expect("written");
        let read = async |file: &str| read_profile(folder.path(), file).await;
        assert_eq!(read("sub/a.json").await, Ok(Seccomp::Given("{}".into())));
        for bad in ["../a.json", "/etc/passwd", "none.json"] {
            let why = read(bad).await.expect_err(bad);
            assert!(why.starts_with("cannot load seccomp profile \""), "{why}");
        }
    }
}
