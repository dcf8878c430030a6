//! The sandbox's image: our static pause binary in a docker-archive built in memory. The archive is
//! the same for the same binary, so the image's id is known without asking an engine, and whether
//! it is loaded is one inspect by id.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// What people see in `docker images`; the agent itself goes by the id.
const TAG: &str = concat!("ballast/pause:", env!("CARGO_PKG_VERSION"));

/// A docker-archive and the id that an engine gives the image in it.
#[derive(Clone, Debug)]
pub struct PauseImage {
    /// `sha256:…` of the image's config.
    pub id: String,
    pub archive: Bytes,
}

/// Built once.
pub fn pause_image() -> &'static PauseImage {
    static IMAGE: LazyLock<PauseImage> = LazyLock::new(build);
    &IMAGE
}

fn build() -> PauseImage {
    let layer = tar_of(&[("pause", PAUSE, 0o755)]);
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]},
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
    PauseImage { id: format!("sha256:{id}"), archive: archive.into() }
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
        assert_eq!(pause_image().id.len(), "sha256:".len() + 64);
    }
}
