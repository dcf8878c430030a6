//! Pure: what is known of this node's images, and who waits for which pull.
//!
//! One pull serves every pod that waits for the same image with the same means (the credentials its
//! Secrets hold for it): pods with others pull for themselves and fail for themselves, as with the
//! kubelet, whose back-off is a pod's own. Whether the engine has an image is one fact for all.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use crate::node::image::{ImageState, PullFailure};
use crate::node::registry_credentials::Means;
use crate::node::restart::BackOff;

/// Means that are remembered of one image: Secrets change, and nobody tells that they are not coming
/// back. What is forgotten is pulled again, or fails again, once.
const MEANS: usize = 16;

/// By image reference.
#[derive(Debug, Default)]
pub struct Images {
    by_reference: HashMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    present: Option<Option<String>>,
    attempts: HashMap<Means, Attempt>,
}

#[derive(Debug, Default)]
struct Attempt {
    state: ImageState,
    /// While it is pulled: who waits, by pod uid, and since when.
    waiting: Option<BTreeMap<String, Timestamp>>,
}

impl Images {
    /// Whether the engine need not be asked: it has the image, or is pulling it.
    pub fn is_settled(&self, image: &str) -> bool {
        self.by_reference.get(image).is_some_and(|known| {
            matches!(known.present, Some(Some(_)))
                || known.attempts.values().any(|attempt| attempt.waiting.is_some())
        })
    }

    /// The image's id, if the engine is known to have it.
    pub fn present(&self, image: &str) -> Option<String> {
        self.by_reference.get(image).and_then(|known| known.present.clone().flatten())
    }

    /// What the engine said: the image's id, or that it does not have it.
    pub fn see(&mut self, image: &str, id: Option<String>) {
        self.by_reference.entry(image.to_owned()).or_default().present = Some(id);
    }

    /// As this pod sees it, whose means are these; `None`: they are not known yet.
    pub fn state(
        &mut self,
        image: &str,
        means: Option<&Means>,
        pod_uid: &str,
        now: Timestamp,
    ) -> ImageState {
        let Some(known) = self.by_reference.get_mut(image) else {
            return ImageState { awaits_secrets: means.is_none(), ..ImageState::default() };
        };
        let present = known.present.clone();
        match means.map(|means| known.attempts.get_mut(means)) {
            None => ImageState { present, awaits_secrets: true, ..ImageState::default() },
            Some(None) => ImageState { present, ..ImageState::default() },
            Some(Some(attempt)) => {
                attempt.state.settle(now);
                let waits = |waiting: &BTreeMap<String, Timestamp>| waiting.contains_key(pod_uid);
                let pulling = attempt.waiting.as_ref().is_some_and(waits);
                ImageState { present, pulling, ..attempt.state.clone() }
            }
        }
    }

    /// A pod waits for the pull. Answers whether it is the first one: then the pull begins.
    pub fn join(&mut self, image: &str, means: &Means, pod_uid: &str, now: Timestamp) -> bool {
        let attempts = &mut self.by_reference.entry(image.to_owned()).or_default().attempts;
        if attempts.len() >= MEANS && !attempts.contains_key(means) {
            attempts.retain(|_, attempt| attempt.waiting.is_some());
        }
        let attempt = attempts.entry(means.clone()).or_default();
        let begins = attempt.waiting.is_none();
        attempt.waiting.get_or_insert_default().entry(pod_uid.to_owned()).or_insert(now);
        begins
    }

    /// The uids of the pods that wait for the pull.
    pub fn waiting(&self, image: &str, means: &Means) -> Vec<String> {
        let attempt = self.by_reference.get(image).and_then(|known| known.attempts.get(means));
        let waiting = attempt.and_then(|attempt| attempt.waiting.as_ref());
        waiting.into_iter().flatten().map(|(uid, _)| uid.clone()).collect()
    }

    /// The pull ended; `None`: nobody knows how, and it is tried again at once. Answers who waited.
    pub fn end(
        &mut self,
        image: &str,
        means: &Means,
        pulled: Option<Result<(), String>>,
        now: Timestamp,
    ) -> BTreeMap<String, Timestamp> {
        let known = self.by_reference.entry(image.to_owned()).or_default();
        let attempt = known.attempts.entry(means.clone()).or_default();
        match pulled {
            Some(Ok(())) => {
                attempt.state.pulled_at = Some(now);
                attempt.state.failure = None;
            }
            Some(Err(message)) => {
                let before = attempt.state.failure.as_ref().map(|failure| &failure.back_off);
                let back_off = BackOff::grown(before, image, now, now);
                attempt.state.failure = Some(PullFailure { at: now, message, back_off });
            }
            None => {}
        }
        attempt.waiting.take().unwrap_or_default()
    }

    /// Forgets what no pod names any more.
    pub fn retain(&mut self, is_named: impl Fn(&str) -> bool) {
        self.by_reference.retain(|image, known| {
            is_named(image) || known.attempts.values().any(|attempt| attempt.waiting.is_some())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_plan::tests::at;
    use crate::node::registry_credentials::Credentials;

    fn means(user: &str) -> Means {
        Ok(vec![Credentials { username: user.into(), ..Credentials::default() }])
    }

    #[test]
    fn one_pull_serves_all_with_the_same_means() {
        let (mut images, anyone) = (Images::default(), Means::Ok(vec![]));
        images.see("a:1", None);
        assert!(!images.is_settled("a:1"));
        assert!(images.join("a:1", &anyone, "one", at(0)));
        assert!(!images.join("a:1", &anyone, "two", at(5)));
        assert!(images.join("a:1", &means("u"), "three", at(6)), "others pull for themselves");
        assert!(images.is_settled("a:1"));
        let mut pulls =
            |uid: &str, means: &Means| images.state("a:1", Some(means), uid, at(7)).pulling;
        assert!(pulls("one", &anyone) && pulls("two", &anyone) && !pulls("four", &anyone));
        let waited = images.end("a:1", &anyone, Some(Ok(())), at(9));
        assert_eq!(waited, BTreeMap::from([("one".into(), at(0)), ("two".into(), at(5))]));
        assert_eq!(images.waiting("a:1", &means("u")), ["three"]);
        assert_eq!(images.state("a:1", Some(&anyone), "one", at(9)).pulled_at, Some(at(9)));
        assert_eq!(images.state("a:1", Some(&means("u")), "three", at(9)).pulled_at, None);
    }

    #[test]
    fn a_failure_is_of_its_means_alone() {
        let (mut images, anyone) = (Images::default(), Means::Ok(vec![]));
        images.join("a:1", &anyone, "one", at(0));
        images.end("a:1", &anyone, Some(Err("denied".into())), at(1));
        let mut failure = |means: &Means| images.state("a:1", Some(means), "x", at(2)).failure;
        assert_eq!(failure(&anyone).expect("it failed").message, "denied");
        assert_eq!(failure(&means("u")), None);
        // The engine went away meanwhile: nothing failed, and nobody waits.
        images.join("a:1", &means("u"), "two", at(3));
        assert_eq!(images.end("a:1", &means("u"), None, at(4)).len(), 1);
        assert!(!images.state("a:1", Some(&means("u")), "two", at(4)).pulling);
    }

    #[test]
    fn what_is_not_named_and_means_that_changed_are_forgotten() {
        let mut images = Images::default();
        for number in 0..100 {
            let means = means(&number.to_string());
            images.join("a:1", &means, "one", at(number));
            images.end("a:1", &means, Some(Err("no".into())), at(number));
        }
        assert!(images.by_reference["a:1"].attempts.len() <= MEANS);
        images.join("b:1", &Ok(vec![]), "two", at(0));
        images.retain(|_| false);
        assert_eq!(images.by_reference.keys().collect::<Vec<_>>(), ["b:1"], "it is being pulled");
    }
}
