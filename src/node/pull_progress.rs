//! Says how far a pull is, from what the engine says of every layer: to whoever watches, and in the log
//! one line soon, then one every few seconds. The engine tells a layer's size only when its download begins, so the whole grows while
//! layers wait: it is what is known by now.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use tokio::sync::watch;
use tracing::info;

use crate::object::pace::Pace;

/// One pull, while it runs.
#[derive(Debug)]
pub struct PullProgress<'a> {
    image: &'a str,
    heard: &'a watch::Sender<Pulled>,
    begun: Instant,
    pace: Pace,
    layers: Layers,
}

impl<'a> PullProgress<'a> {
    pub fn of(image: &'a str, heard: &'a watch::Sender<Pulled>) -> Self {
        let (begun, pace, layers) = (Instant::now(), Pace::default(), Layers::default());
        Self { image, heard, begun, pace, layers }
    }

    /// Takes one message of the engine: of which layer, in its words, with the bytes that are here
    /// and those there are.
    pub fn note(
        &mut self,
        layer: Option<&str>,
        status: Option<&str>,
        bytes: Option<(Option<i64>, Option<i64>)>,
    ) {
        let bytes = bytes.and_then(|(here, of)| here.zip(of));
        self.layers.note(layer.unwrap_or_default(), status.unwrap_or_default(), bytes);
        let sum = self.layers.sum();
        // Told also where nothing is more than it was: the engine is at work.
        self.heard.send_replace(sum);
        if self.pace.is_due(self.begun.elapsed()) {
            let Pulled { layers, of_layers, bytes, of_bytes } = sum;
            let (mebibytes, of_mebibytes) = (bytes >> 20, of_bytes >> 20);
            info!(image = self.image, layers, of_layers, mebibytes, of_mebibytes, "pulling image");
        }
    }
}

/// What the engine told so far, by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layers {
    by_id: BTreeMap<String, Layer>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Layer {
    here: u64,
    of: u64,
    done: bool,
}

/// What is said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    pub layers: usize,
    pub of_layers: usize,
    pub bytes: u64,
    pub of_bytes: u64,
}

impl fmt::Display for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, of_layers, bytes, of_bytes } = self;
        let (mebibytes, of_mebibytes) = (bytes >> 20, of_bytes >> 20);
        write!(f, "{layers} of {of_layers} layers, {mebibytes} of {of_mebibytes} MiB downloaded")
    }
}

impl Layers {
    fn note(&mut self, layer: &str, status: &str, bytes: Option<(i64, i64)>) {
        // The first and the last message carry the tag, and are about no layer.
        let of_a_layer = ["Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum"];
        let complete = ["Pull complete", "Already exists"];
        let downloaded = ["Download complete", "Extracting"];
        if ![&of_a_layer[..], &complete, &downloaded].iter().any(|words| words.contains(&status)) {
            return;
        }
        let known = self.by_id.entry(layer.to_owned()).or_default();
        known.done = complete.contains(&status);
        if known.done || downloaded.contains(&status) {
            // Extracting counts bytes too, and not those of the download.
            known.here = known.of;
        } else if let Some((here, of)) = bytes {
            known.of = u64::try_from(of).unwrap_or(0);
            known.here = u64::try_from(here).unwrap_or(0).min(known.of);
        }
    }

    fn sum(&self) -> Pulled {
        let layers = self.by_id.values();
        Pulled {
            layers: layers.clone().filter(|layer| layer.done).count(),
            of_layers: layers.len(),
            bytes: layers.clone().map(|layer| layer.here).sum(),
            of_bytes: layers.map(|layer| layer.of).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_bytes_are_summed_as_the_engine_tells_them() {
        let mut pull = Layers::default();
        pull.note("v1", "Pulling from team/web", None);
        pull.note("a", "Pulling fs layer", None);
        pull.note("b", "Pulling fs layer", None);
        pull.note("c", "Already exists", None);
        pull.note("a", "Downloading", Some((10, 100)));
        pull.note("b", "Waiting", None);
        let under_way = Pulled { layers: 1, of_layers: 3, bytes: 10, of_bytes: 100 };
        assert_eq!(pull.sum(), under_way);
        pull.note("b", "Downloading", Some((50, 50)));
        pull.note("a", "Download complete", None);
        pull.note("a", "Extracting", Some((5, 999)));
        assert_eq!(pull.sum(), Pulled { layers: 1, of_layers: 3, bytes: 150, of_bytes: 150 });
        pull.note("a", "Pull complete", None);
        pull.note("b", "Pull complete", None);
        pull.note("", "Digest: sha256:1", None);
        pull.note("", "Status: Downloaded newer image", Some((-1, -1)));
        assert_eq!(pull.sum(), Pulled { layers: 3, of_layers: 3, bytes: 150, of_bytes: 150 });
    }
}
