//! Pure: whether a container's image is ready, must be pulled, or has to wait.
//!
//! Reasons and messages are the kubelet's (`images/image_manager.go`): `ErrImagePull` right after a
//! failed pull, `ImagePullBackOff` while it waits (10 s doubling to 5 min), `ErrImageNeverPull`,
//! `InvalidImageName`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use crate::node::restart::BackOff;

/// What is known of one image reference on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageState {
    /// The id, if the engine has it; `None` until it was looked for.
    pub present: Option<Option<String>>,
    /// For this pod too.
    pub pulling: bool,
    /// The Secrets that it is pulled with are not known yet.
    pub awaits_secrets: bool,
    /// The last pull that succeeded.
    pub pulled_at: Option<Timestamp>,
    pub failure: Option<PullFailure>,
}

impl ImageState {
    /// The clock stepped back over these times: a failure counts as one of now, and when the pull
    /// was is unknown.
    pub fn settle(&mut self, now: Timestamp) {
        self.pulled_at = self.pulled_at.filter(|at| *at <= now);
        if let Some(failure) = &mut self.failure {
            failure.at = failure.at.min(now);
            failure.back_off.updated_at = failure.back_off.updated_at.min(now);
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PullFailure {
    pub at: Timestamp,
    pub message: String,
    pub back_off: BackOff,
}

/// A waiting container's reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: Option<String>,
}

impl Waiting {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: Some(message.into()) }
    }

    /// Under way, nothing to say.
    pub fn creating() -> Self {
        Self { reason: "ContainerCreating", message: None }
    }

    /// Under way behind init containers, nothing to say.
    pub fn initializing() -> Self {
        Self { reason: "PodInitializing", message: None }
    }
}

/// What to do about an image before its container is made.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageDecision {
    Ready,
    Pull,
    /// `until`: when to look again; `None` waits for a signal.
    Wait {
        waiting: Waiting,
        until: Option<Timestamp>,
    },
}

/// The pull policy, with Kubernetes' default for objects that admission has not seen.
pub fn pull_policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) => policy,
        None if container.image.as_deref().is_some_and(is_latest) => "Always",
        None => "IfNotPresent",
    }
}

fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"))
}

/// `needed_since`: with `Always`, a pull before this time does not count (the making of the attempt
/// before, or of the pod).
pub fn decide(
    container: &Container,
    state: &ImageState,
    needed_since: Timestamp,
    now: Timestamp,
) -> ImageDecision {
    let image = container.image.as_deref().unwrap_or_default();
    if !is_valid(image) {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        let waiting = Waiting::new("InvalidImageName", message);
        return ImageDecision::Wait { waiting, until: None };
    }
    let policy = pull_policy(container);
    let present = matches!(state.present, Some(Some(_)));
    let fresh = state.pulled_at.is_some_and(|at| at >= needed_since);
    if present && (policy != "Always" || fresh) {
        return ImageDecision::Ready;
    }
    if policy == "Never" {
        let message =
            format!("Container image \"{image}\" is not present with pull policy of Never");
        return ImageDecision::Wait {
            waiting: Waiting::new("ErrImageNeverPull", message),
            until: None,
        };
    }
    if state.pulling || state.awaits_secrets {
        return ImageDecision::Wait { waiting: Waiting::creating(), until: None };
    }
    match &state.failure {
        Some(failure) => match failure.back_off.holds(image, failure.at, now) {
            Some(until) => {
                let (waiting, turns_at) = failed(image, failure, now);
                let until = turns_at.map_or(until, |turns_at| turns_at.min(until));
                ImageDecision::Wait { waiting, until: Some(until) }
            }
            None => ImageDecision::Pull,
        },
        None => ImageDecision::Pull,
    }
}

/// The kubelet says `ErrImagePull` in the pass that failed and `ImagePullBackOff` from the next one
/// on; our passes are not a second apart, so the first two seconds are the first pass.
fn failed(image: &str, failure: &PullFailure, now: Timestamp) -> (Waiting, Option<Timestamp>) {
    let turns_at = failure.at + SignedDuration::from_secs(2);
    if now < turns_at {
        return (Waiting::new("ErrImagePull", failure.message.clone()), Some(turns_at));
    }
    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
    (Waiting::new("ImagePullBackOff", message), None)
}

/// The kubelet's sentence after a pull: how long it took by itself and with the wait for its turn.
pub fn pulled_message(
    image: &str,
    pulling: SignedDuration,
    waiting: SignedDuration,
    size: Option<i64>,
) -> String {
    let (pulling, waiting) = (go_milliseconds(pulling), go_milliseconds(waiting));
    let size = size.map(|bytes| format!(" Image size: {bytes} bytes.")).unwrap_or_default();
    format!(
        "Successfully pulled image \"{image}\" in {pulling} ({waiting} including waiting).{size}"
    )
}

/// `850ms`, `1.2s`, `1m44.643s`: a time as Go prints it, cut to milliseconds.
fn go_milliseconds(time: SignedDuration) -> String {
    let milliseconds = time.as_millis().max(0);
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (minutes / 60, minutes % 60) {
        (0, 0) if milliseconds == 0 => "0s".to_owned(),
        (0, 0) if rest < 1000 => format!("{rest}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The shape of a reference (distribution/reference): `[host[:port]/]path[:tag][@digest]`.
pub fn is_valid(image: &str) -> bool {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let digest_fits = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        })
    });
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let tag_fits = tag.is_none_or(|tag| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        (1..=128).contains(&tag.len())
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
    });
    let mut parts = path.split('/').peekable();
    let mut fits = true;
    let mut first = true;
    while let Some(part) = parts.next() {
        let is_host = first
            && parts.peek().is_some()
            && (part.contains('.') || part.contains(':') || part == "localhost");
        let allowed = |b: u8| {
            b.is_ascii_lowercase()
                || b.is_ascii_digit()
                || (b == b'.' || b == b'_' || b == b'-')
                || (is_host && (b == b':' || b.is_ascii_uppercase()))
        };
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        fits &= !part.is_empty()
            && part.bytes().all(allowed)
            && edge(part.bytes().next())
            && edge(part.bytes().last());
        first = false;
    }
    fits && tag_fits && digest_fits && path.len() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, policy: Option<&str>) -> Container {
        Container {
            image: Some(image.into()),
            image_pull_policy: policy.map(str::to_owned),
            ..Container::default()
        }
    }

    #[test]
    fn references_are_judged_by_their_shape() {
        for good in ["web", "a/b:v1", "localhost:5000/x/y:z", "Host.io/a", "ballast.example/web:v1"]
        {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "Web", "a//b", "a:", "a b", "-a", "a@sha256:12", "a:b:c"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn a_pull_is_told_in_the_kubelets_words() {
        let told = |pulling, waiting| {
            let time = SignedDuration::from_micros;
            pulled_message("a:1", time(pulling), time(waiting), Some(7))
        };
        assert_eq!(
            told(1_200_900, 104_643_000),
            "Successfully pulled image \"a:1\" in 1.2s (1m44.643s including waiting). Image size: 7 bytes."
        );
        for (micros, words) in [
            (0, "0s"),
            (850_999, "850ms"),
            (1_000_000, "1s"),
            (10_010_000, "10.01s"),
            (60_000_000, "1m0s"),
            (3_600_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_milliseconds(SignedDuration::from_micros(micros)), words);
        }
    }

    #[test]
    fn a_pull_waits_for_the_secrets_it_is_made_with() {
        let now = Timestamp::from_second(1000).expect("a time");
        let state =
            ImageState { present: Some(None), awaits_secrets: true, ..ImageState::default() };
        let wait = ImageDecision::Wait { waiting: Waiting::creating(), until: None };
        assert_eq!(decide(&container("a:1", None), &state, now, now), wait);
        let there = ImageState { present: Some(Some("sha256:1".into())), ..state };
        assert_eq!(decide(&container("a:1", None), &there, now, now), ImageDecision::Ready);
    }

    #[test]
    fn policies_decide_what_a_missing_and_a_stale_image_mean() {
        let now = Timestamp::from_second(1000).expect("a time");
        let present =
            ImageState { present: Some(Some("sha256:1".into())), ..ImageState::default() };
        let absent = ImageState { present: Some(None), ..ImageState::default() };
        assert_eq!(decide(&container("a:1", None), &present, now, now), ImageDecision::Ready);
        assert_eq!(decide(&container("a:1", None), &absent, now, now), ImageDecision::Pull);
        assert_eq!(decide(&container("a", None), &present, now, now), ImageDecision::Pull);
        let pulled = ImageState { pulled_at: Some(now), ..present.clone() };
        assert_eq!(decide(&container("a", None), &pulled, now, now), ImageDecision::Ready);
        let never = decide(&container("a:1", Some("Never")), &absent, now, now);
        assert!(
            matches!(never, ImageDecision::Wait { waiting, .. } if waiting.reason == "ErrImageNeverPull")
        );
    }

    #[test]
    fn a_failed_pull_is_named_and_then_backs_off() {
        let at = Timestamp::from_second(1000).expect("a time");
        let failure = PullFailure {
            at,
            message: "no such host".into(),
            back_off: BackOff::grown(None, "a:1", at, at),
        };
        let state =
            ImageState { present: Some(None), failure: Some(failure), ..ImageState::default() };
        let after = |seconds| {
            let now = at + SignedDuration::from_secs(seconds);
            match decide(&container("a:1", None), &state, at, now) {
                ImageDecision::Wait { waiting, .. } => waiting.reason,
                ImageDecision::Pull => "pull",
                ImageDecision::Ready => "ready",
            }
        };
        assert_eq!((after(0), after(5), after(10)), ("ErrImagePull", "ImagePullBackOff", "pull"));
    }
}
