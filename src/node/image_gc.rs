//! Pure: which images go when the disk that holds them is full, and which of them are ours to remove.
//!
//! The kubelet's rules and numbers (`images/image_gc_manager.go`): from 85 % of the disk on images go
//! until it is 80 % full, the least recently used first, none that a container is made of and none that
//! came less than 2 min ago. Unlike the kubelet's, the engine is not ours alone: only what this node
//! pulled itself is ever removed, and only by the name that it was pulled by. What else has a name that
//! somebody gave it stays.
//!
//! What was pulled stands in a file of the node (`pulled_images.rs`): the engine puts no labels on an
//! image, and the store is the cluster's. It is noted before a pull begins, with the id that the name
//! stood for until then: an image that is there after a crash, and was not before, is known as ours.
//! Losing the file loses no image: nothing is ours then, and nothing is collected.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Pulls that nobody knows the end of are forgotten after this: they have failed.
const FORGET: SignedDuration = SignedDuration::from_hours(24);

/// One image of the engine's store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredImage {
    pub id: String,
    /// Its tags and digests, with their repositories; none: nobody can ask for it any more.
    pub names: Vec<String>,
    /// Bytes, those that it shares with others included.
    pub size: i64,
    /// A container is made of it, whoever's it is, running or not.
    pub used: bool,
}

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `imageGCHighThresholdPercent`; 100 switches it off.
    pub high_percent: u8,
    /// `imageGCLowThresholdPercent`
    pub low_percent: u8,
    /// `imageMinimumGCAge`
    pub least_age: SignedDuration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, least_age: SignedDuration::from_mins(2) }
    }
}

impl Thresholds {
    /// Bytes to free on a disk of which so much is available; `None`: it is not full.
    pub fn to_free(&self, capacity: u64, available: u64) -> Option<u64> {
        let available = available.min(capacity);
        let used_percent = (capacity > 0)
            .then(|| 100 - (u128::from(available) * 100 / u128::from(capacity)) as u64)?;
        let wanted = u128::from(capacity) * u128::from(100 - self.low_percent.min(100)) / 100;
        let is_full = self.high_percent < 100 && used_percent >= self.high_percent.into();
        is_full.then(|| u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(available))
    }
}

/// One image that this node pulled, or is pulling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImage {
    /// As the pod names it.
    pub reference: String,
    /// What the name stood for before the pull.
    pub before: Option<String>,
    /// What came; `None` while it is not known.
    pub id: Option<String>,
    pub at: Timestamp,
    /// When a container of it was last seen.
    pub used_at: Option<Timestamp>,
}

/// All of them, as the file holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImages {
    pub images: Vec<PulledImage>,
}

/// An image that goes: by which name, and how many bytes that may free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub name: String,
    pub bytes: u64,
}

impl PulledImages {
    /// A pull begins.
    pub fn begin(&mut self, reference: &str, before: Option<String>, now: Timestamp) {
        self.images.retain(|image| image.reference != reference || image.id.is_some());
        let reference = reference.to_owned();
        self.images.push(PulledImage { reference, before, id: None, at: now, used_at: None });
    }

    /// A pull ended, and the name stands for this now. An image that was there before is not ours.
    pub fn end(&mut self, reference: &str, id: Option<&str>, now: Timestamp) {
        let ours = |image: &&mut PulledImage| {
            image.reference == reference && image.id.is_some() && image.id.as_deref() == id
        };
        let known = self.images.iter_mut().find(ours).map(|image| image.at = now).is_some();
        for image in &mut self.images {
            if image.reference == reference && image.id.is_none() && image.before.as_deref() != id {
                image.id = id.filter(|_| !known).map(str::to_owned);
                image.at = now;
            }
        }
        self.images.retain(|image| image.reference != reference || image.id.is_some());
    }

    /// Takes up what the engine has now: who is used, what is gone, and what pulls left whose end the
    /// daemon did not see. Answers whether anything differs that is worth writing down.
    pub fn look(&mut self, stored: &[StoredImage], now: Timestamp) -> bool {
        let before = self.clone();
        for image in &mut self.images {
            let named =
                || stored.iter().find(|one| one.names.contains(&familiar(&image.reference)));
            if image.id.is_none()
                && let Some(came) = named().filter(|one| Some(&one.id) != image.before.as_ref())
            {
                image.id = Some(came.id.clone());
            }
            let own = stored.iter().find(|one| Some(&one.id) == image.id.as_ref());
            if own.is_some_and(|own| own.used) {
                image.used_at = Some(now);
            }
        }
        let ids: BTreeSet<&str> = stored.iter().map(|one| &*one.id).collect();
        self.images.retain(|image| match &image.id {
            Some(id) => ids.contains(&**id),
            None => now.duration_since(image.at) < FORGET,
        });
        *self != before
    }

    /// What may go, in the order in which it goes.
    pub fn removable(
        &self,
        stored: &[StoredImage],
        least_age: SignedDuration,
        now: Timestamp,
    ) -> Vec<Removal> {
        let mut candidates: Vec<(&PulledImage, Removal)> = Vec::new();
        for image in &self.images {
            let own = stored.iter().find(|one| Some(&one.id) == image.id.as_ref() && !one.used);
            let Some(own) = own.filter(|_| now.duration_since(image.at) >= least_age) else {
                continue;
            };
            if let Some(name) = own_name(&image.reference, own) {
                let bytes = u64::try_from(own.size).unwrap_or(0);
                candidates.push((image, Removal { name, bytes }));
            }
        }
        candidates.sort_by_key(|(image, _)| (image.used_at, image.at, image.reference.clone()));
        candidates.into_iter().map(|(_, removal)| removal).collect()
    }
}

/// The name by which an image that we pulled may be removed: ours, or its id where no name is left but
/// digests of our repository. `None`: somebody else named it too, and removing ours would free nothing
/// or take theirs.
fn own_name(reference: &str, image: &StoredImage) -> Option<String> {
    let ours = familiar(reference);
    let repository = |name: &str| {
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        let last = name.rfind('/').map_or(0, |at| at + 1);
        name[last..].find(':').map_or(name, |colon| &name[..last + colon]).to_owned()
    };
    let mut others = image.names.iter().filter(|name| **name != ours);
    if !others.all(|name| name.contains('@') && repository(name) == repository(&ours)) {
        return None;
    }
    let is_named = image.names.contains(&ours);
    Some(if is_named { reference.to_owned() } else { image.id.clone() })
}

/// As the engine lists it: `docker.io/library/web` is `web:latest`.
fn familiar(reference: &str) -> String {
    let short = reference.strip_prefix("index.docker.io/");
    let short = short.or_else(|| reference.strip_prefix("docker.io/")).unwrap_or(reference);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    match short.split_once('@') {
        // Of a name with a tag and a digest the engine keeps the digest.
        Some((name, digest)) => {
            let name = name.rsplit_once('/').map_or_else(
                || name.split(':').next().unwrap_or(name).to_owned(),
                |(path, last)| format!("{path}/{}", last.split(':').next().unwrap_or(last)),
            );
            format!("{name}@{digest}")
        }
        None if last.contains(':') => short.to_owned(),
        None => format!("{short}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::pod_plan::tests::at;

    fn stored(id: &str, names: &[&str], used: bool) -> StoredImage {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        StoredImage { id: id.into(), names, size: 10, used }
    }

    /// Pulled at these seconds: id `i<n>` by the name `r.io/<n>:v1`.
    fn pulled(times: &[i64]) -> PulledImages {
        let mut all = PulledImages::default();
        for (number, time) in times.iter().enumerate() {
            let reference = format!("r.io/{number}:v1");
            all.begin(&reference, None, at(*time));
            all.end(&reference, Some(&format!("i{number}")), at(*time));
        }
        all
    }

    fn names(of: &PulledImages, stored: &[StoredImage], now: i64) -> Vec<String> {
        let all = of.removable(stored, Thresholds::default().least_age, at(now));
        all.into_iter().map(|removal| removal.name).collect()
    }

    #[test]
    fn from_85_percent_on_as_much_goes_as_is_above_80() {
        let limits = Thresholds::default();
        // Whole percents, as the kubelet counts them.
        assert_eq!(limits.to_free(1000, 160), None);
        assert_eq!(limits.to_free(1000, 159), Some(41));
        assert_eq!(limits.to_free(1000, 150), Some(50));
        assert_eq!(limits.to_free(1000, 0), Some(200));
        assert_eq!(limits.to_free(0, 0), None, "a disk that tells nothing");
        assert_eq!(limits.to_free(u64::MAX, 1), Some((u128::from(u64::MAX) / 5) as u64 - 1));
        let off = Thresholds { high_percent: 100, ..limits };
        assert_eq!(off.to_free(1000, 0), None);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_used_and_young_stay() {
        let mut ours = pulled(&[0, 10, 20, 30, 400]);
        let image = |number: usize, used| {
            stored(&format!("i{number}"), &[&format!("r.io/{number}:v1")], used)
        };
        // 1 was used once, 3 is used now, 4 has just come, and `theirs` is nobody's of ours.
        ours.look(
            &[image(0, false), image(1, true), image(2, false), image(3, false), image(4, false)],
            at(50),
        );
        let now = [
            image(0, false),
            image(1, false),
            image(2, false),
            image(3, true),
            image(4, false),
            stored("theirs", &["r.io/theirs:v1"], false),
        ];
        ours.look(&now, at(60));
        assert_eq!(names(&ours, &now, 410), ["r.io/0:v1", "r.io/2:v1", "r.io/1:v1"]);
    }

    #[test]
    fn what_was_there_before_is_not_ours() {
        let mut ours = PulledImages::default();
        ours.begin("web", Some("old".into()), at(0));
        ours.end("web", Some("old"), at(1));
        assert_eq!(ours, PulledImages::default(), "the pull brought nothing new");
        ours.begin("web", Some("old".into()), at(2));
        ours.end("web", Some("new"), at(3));
        let now = [stored("old", &[], false), stored("new", &["web:latest"], false)];
        assert_eq!(names(&ours, &now, 500), ["web"]);
        // A newer one takes the name: what we brought goes by its id, its digests with it.
        ours.begin("web", Some("new".into()), at(4));
        ours.end("web", Some("newest"), at(5));
        let now = [
            stored("old", &[], false),
            stored("new", &["web@sha256:1"], false),
            stored("newest", &["web:latest", "web@sha256:2"], false),
        ];
        assert_eq!(names(&ours, &now, 500), ["new", "web"]);
        // Pulled again without news.
        ours.begin("web", Some("newest".into()), at(6));
        ours.end("web", Some("newest"), at(7));
        assert_eq!(ours.images.len(), 2);
    }

    #[test]
    fn what_somebody_else_named_too_stays() {
        let ours = pulled(&[0]);
        for others in ["mine:v1", "r.io/0:v2", "other.io/0@sha256:1"] {
            let now = [stored("i0", &["r.io/0:v1", others], false)];
            assert_eq!(names(&ours, &now, 500), [""; 0], "{others}");
        }
        let now = [stored("i0", &["r.io/0:v2"], false)];
        assert_eq!(names(&ours, &now, 500), [""; 0], "our name was taken from it");
    }

    #[test]
    fn a_pull_whose_end_nobody_saw_is_found_again() {
        let mut ours = PulledImages::default();
        ours.begin("docker.io/library/web:v1", Some("old".into()), at(0));
        let still = [stored("old", &["web:v1"], false)];
        assert!(!ours.look(&still, at(60)));
        assert_eq!(names(&ours, &still, 500), [""; 0]);
        let came = [stored("new", &["web:v1", "web@sha256:1"], false)];
        assert!(ours.look(&came, at(70)));
        assert_eq!(names(&ours, &came, 500), ["docker.io/library/web:v1"]);
        // One that never came is forgotten, and so is one that somebody removed.
        ours.begin("gone:v1", None, at(80));
        assert!(ours.look(&[], at(80 + 24 * 3600)));
        assert_eq!(ours, PulledImages::default());
    }

    #[test]
    fn names_are_the_engines() {
        for (written, listed) in [
            ("web", "web:latest"),
            ("docker.io/library/web:v1", "web:v1"),
            ("docker.io/team/web", "team/web:latest"),
            ("r.io:5000/team/web", "r.io:5000/team/web:latest"),
            ("r.io:5000/web:v1@sha256:1", "r.io:5000/web@sha256:1"),
            ("web:v1@sha256:1", "web@sha256:1"),
        ] {
            assert_eq!(familiar(written), listed);
        }
    }

    proptest! {
        /// Whatever there is, nothing goes that is used, young, not ours or named by somebody else.
        #[test]
        fn nothing_else_ever_goes(
            times in prop::collection::vec(0i64..400, 1..8),
            used in prop::collection::vec(any::<bool>(), 8),
            shared in prop::collection::vec(any::<bool>(), 8),
            now in 0i64..800,
        ) {
            let ours = pulled(&times);
            let mut all: Vec<StoredImage> = (0..times.len())
                .map(|number| {
                    let own = format!("r.io/{number}:v1");
                    let both: &[&str] = if shared[number] { &[&own, "mine:v1"] } else { &[&own] };
                    stored(&format!("i{number}"), both, used[number])
                })
                .collect();
            all.push(stored("theirs", &["theirs:v1"], false));
            let expected: BTreeSet<String> = (0..times.len())
                .filter(|number| !used[*number] && !shared[*number] && now - times[*number] >= 120)
                .map(|number| format!("r.io/{number}:v1"))
                .collect();
            let found: BTreeSet<String> = names(&ours, &all, now).into_iter().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
