//! What a container leaves to be read when it has ended: the file at its `terminationMessagePath`,
//! or the end of its log (`FallbackToLogsOnError`).
//!
//! The kubelet's numbers (`kuberuntime_container.go`): the last 4096 bytes of the file; of the log
//! the last 2048 bytes of at most 80 lines, where the container failed and the file is empty. The
//! file is one of the host, in the pod's own directory, one an attempt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::timeout;

use crate::node::container_spec::MountSpec;
use crate::node::instance::{Identity, Instance, Role};
use crate::node::runtime::{INSPECT_TIME, LogOptions, Runtime};
use crate::node::sidecar::container_of;
use crate::node::volume_plan::pod_directory;
use crate::object::ephemeral_container::containers;

const FILE_BYTES: usize = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: i64 = 80;

/// The host's file behind an attempt's `terminationMessagePath`.
pub fn file(data_dir: &Path, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    pod_directory(data_dir, pod).join("containers").join(container).join(attempt.to_string())
}

/// As [`file`], of an instance.
pub fn file_of(data_dir: &Path, identity: &Identity) -> PathBuf {
    let home = data_dir.join("pods").join(&identity.pod_uid).join("containers");
    home.join(&identity.container).join(identity.attempt.to_string())
}

/// Makes the file, and says where the container sees it; `None`: one of its volumes is there, or it
/// wants none.
///
/// # Errors
/// The file's.
pub fn prepare(
    file: &Path,
    container: &Container,
    mounts: &[MountSpec],
) -> io::Result<Option<MountSpec>> {
    let target = container.termination_message_path.as_deref().unwrap_or_default();
    let taken = mounts.iter().any(|mount| Path::new(&mount.target) == Path::new(target));
    if target.is_empty() || taken {
        return Ok(None);
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    // Whoever the container runs as writes to it.
    fs::OpenOptions::new().create(true).append(true).mode(0o666).open(file)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o666))?;
    let source = file.to_string_lossy().into_owned();
    Ok(Some(MountSpec::plain(source, target, false)))
}

/// The instances that ended and were not read yet, with what they were made of.
pub fn unread<'a>(
    pod: &'a Pod,
    instances: &'a [Instance],
    read: &BTreeMap<String, String>,
) -> Vec<(Cow<'a, Container>, &'a Instance)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ended = instances.iter().filter(|one| one.ended().is_some());
    let unread = ended.filter(|one| !read.contains_key(&one.id));
    let made_of = |one: &Instance| match one.identity.role {
        Role::Ephemeral => {
            containers(spec).find(|own| own.name == one.identity.container).map(Cow::Owned)
        }
        _ => container_of(spec, one).map(Cow::Borrowed),
    };
    unread.filter_map(|one| Some((made_of(one)?, one))).collect()
}

/// What each left, by instance id.
pub async fn read_all<R: Runtime>(
    runtime: &R,
    data_dir: &Path,
    unread: Vec<(Cow<'_, Container>, &Instance)>,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (container, instance) in unread {
        all.push((instance.id.clone(), read(runtime, data_dir, &container, instance).await));
    }
    all
}

/// What an ended instance left; empty: nothing.
async fn read<R: Runtime>(
    runtime: &R,
    data_dir: &Path,
    container: &Container,
    instance: &Instance,
) -> String {
    let Some(ended) = instance.ended() else { return String::new() };
    let path = file_of(data_dir, &instance.identity);
    let written = match tail(&path, FILE_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return format!("Error on reading termination log {}: {error}", path.display());
        }
    };
    let falls_back = container.termination_message_policy.as_deref()
        == Some("FallbackToLogsOnError")
        && ended.exit_code != 0;
    if !written.is_empty() || !falls_back || instance.started_at.is_none() {
        return written;
    }
    let options = LogOptions { tail: Some(LOG_LINES), ..LogOptions::default() };
    let reading = async {
        let mut parts = runtime.logs(&instance.id, &options).await.map_err(|e| e.to_string())?;
        let mut last: Vec<u8> = Vec::new();
        while let Some(part) = parts.next().await {
            last.extend_from_slice(&part.map_err(|error| error.to_string())?);
            let surplus = last.len().saturating_sub(LOG_BYTES);
            last.drain(..surplus);
        }
        Ok::<_, String>(String::from_utf8_lossy(&last).into_owned())
    };
    let read = timeout(INSPECT_TIME, reading).await;
    let read = read.unwrap_or_else(|_| Err("the engine did not answer".to_owned()));
    read.unwrap_or_else(|error| format!("Error on reading termination message from logs: {error}"))
}

/// The last bytes of a file, which is written by a stranger: a link or a device is not followed.
fn tail(path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
        .open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes as u64)))?;
    let mut last = Vec::new();
    file.take(bytes as u64).read_to_end(&mut last)?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_of_the_file_are_what_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pods/u/containers/web/0");
        let container = |path: &str| Container {
            termination_message_path: Some(path.to_owned()),
            ..Container::default()
        };
        let taken = [MountSpec::plain("/s", "/dev/own", true)];
        assert_eq!(prepare(&path, &container("/dev/own"), &taken).expect("made"), None);
        let mount = prepare(&path, &container("/dev/termination-log"), &taken).expect("made");
        assert_eq!(mount.expect("a mount").target, "/dev/termination-log");
        assert_eq!(fs::metadata(&path).expect("it is").permissions().mode() & 0o777, 0o666);
        assert_eq!(tail(&path, 10).expect("read"), b"");
        fs::write(&path, "0123456789abc").expect("written");
        assert_eq!(tail(&path, 10).expect("read"), b"3456789abc");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(tail(&link, 10).is_err());
    }
}
