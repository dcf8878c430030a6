//! The sandbox's image: our static pause binary in a docker-archive built in memory.
//!
//! It is found by its tag and known by its layer. Not by an id: one image store takes the digest of
//! the config for it, another that of a manifest which it writes itself while loading.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::node::runtime::{ImageFacts, Runtime, RuntimeError};

static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// As `docker images` shows it.
const TAG: &str = concat!("ballast/pause:", env!("CARGO_PKG_VERSION"));

/// A docker-archive, and how an engine knows the image in it.
#[derive(Clone, Debug)]
pub struct PauseImage {
    pub tag: &'static str,
    /// `sha256:…` of its only layer's content.
    pub layer: String,
    pub archive: Bytes,
}

/// The id by which this engine knows the image; loaded where it is missing or something else has
/// its name.
///
/// # Errors
/// The engine's, or that it does not have what it said it loaded.
pub async fn provide<R: Runtime>(runtime: &R) -> Result<String, RuntimeError> {
    let pause = pause_image();
    let ours = |found: Option<ImageFacts>| {
        found.filter(|facts| facts.layers == [pause.layer.clone()]).map(|facts| facts.id)
    };
    if let Some(id) = ours(runtime.image(pause.tag).await?) {
        return Ok(id);
    }
    runtime.load(pause.archive.clone()).await?;
    info!(image = pause.tag, "sandbox image loaded");
    ours(runtime.image(pause.tag).await?).ok_or_else(|| {
        RuntimeError::Other(format!(
            "the engine loaded the sandbox image and does not have it: look for {} in `docker images`",
            pause.tag
        ))
    })
}

/// Built once.
pub fn pause_image() -> &'static PauseImage {
    static IMAGE: LazyLock<PauseImage> = LazyLock::new(build);
    &IMAGE
}

fn build() -> PauseImage {
    let layer = tar_of(&[("pause", PAUSE, 0o755)]);
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [&digest]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "ballast"}],
    })
    .to_string();
    let id = hex::encode(Sha256::digest(config.as_bytes()));
    let config_name = format!("{id}.json");
    let manifest =
        json!([{"Config": config_name, "RepoTags": [TAG], "Layers": ["layer.tar"]}]).to_string();
    let archive = tar_of(&[
        (&config_name, config.as_bytes(), 0o644),
        ("layer.tar", &layer, 0o644),
        ("manifest.json", manifest.as_bytes(), 0o644),
    ]);
    PauseImage { tag: TAG, layer: digest, archive: archive.into() }
}

fn tar_of(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_cksum();
        archive.append_data(&mut header, path, *content).expect("memory takes every byte");
    }
    archive.into_inner().expect("memory takes every byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_small_and_always_the_same() {
        assert!(PAUSE.starts_with(b"\x7fELF"));
        assert!(PAUSE.len() < 2048, "{} bytes", PAUSE.len());
        assert_eq!(build().archive, build().archive);
        assert_eq!(pause_image().layer.len(), "sha256:".len() + 64);
    }
}
