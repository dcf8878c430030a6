//! Pure: when a container that ended may start again.
//!
//! The kubelet's numbers (`kuberuntime_manager.go` doBackOff, client-go `flowcontrol/backoff.go`):
//! the first restart is immediate, then 10 s doubling to 5 min, measured from the end of the last
//! run; a run that ends more than 10 min after the last restart begins anew. A failed image pull
//! has the same series of its own.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::node::container_spec::spec_hash;
use crate::object::Object;

pub const FIRST: SignedDuration = SignedDuration::from_secs(10);
pub const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// Twice the longest.
pub const RESET: SignedDuration = SignedDuration::from_secs(600);

/// Whose series it is (`kubelet` GetStableKey): another incarnation of the pod, or a container that is
/// made of something else (`spec_hash`: the kubelet too looks at name and image), begins anew.
pub fn stable_key(pod: &Pod, container: &Container) -> String {
    let key = pod.key();
    let (name, hash) = (&container.name, spec_hash(container));
    format!("{}_{}_{}_{name}_{hash}", key.name, key.namespace, pod.uid())
}

/// How long the next end keeps its container down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub delay: SignedDuration,
    /// When it last grew: the last restart.
    pub updated_at: Timestamp,
    /// What it counts for: [`stable_key`] of a container, or the image of a pull.
    pub series: String,
}

impl BackOff {
    /// The series' state after a restart (or failed pull) at `now`, of what ended at `ended_at`.
    pub fn grown(
        before: Option<&BackOff>,
        series: &str,
        ended_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let delay = match before {
            Some(back_off) if back_off.counts(series, ended_at) => {
                (back_off.delay * 2).min(LONGEST)
            }
            _ => FIRST,
        };
        Self { delay, updated_at: now, series: series.to_owned() }
    }

    fn counts(&self, series: &str, ended_at: Timestamp) -> bool {
        self.series == series && ended_at.duration_since(self.updated_at) <= RESET
    }

    /// Until when what ended at `ended_at` stays down; `None`: it may start now.
    pub fn holds(&self, series: &str, ended_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = ended_at + self.delay;
        (self.counts(series, ended_at) && now < until).then_some(until)
    }
}

/// `10s`, `1m20s`, `5m0s`: a delay as Go prints it, for messages people grep for.
pub fn go_duration(delay: SignedDuration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_waits_0_10_20_up_to_300_seconds() {
        let mut now = Timestamp::from_second(1_000_000).expect("a time");
        let mut back_off: Option<BackOff> = None;
        let mut waits = Vec::new();
        for _ in 0..8 {
            // It runs one second and ends.
            let ended_at = now + SignedDuration::from_secs(1);
            let until = back_off.as_ref().and_then(|b| b.holds("x:1", ended_at, ended_at));
            let restart = until.unwrap_or(ended_at);
            waits.push(restart.duration_since(ended_at).as_secs());
            back_off = Some(BackOff::grown(back_off.as_ref(), "x:1", ended_at, restart));
            now = restart;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_series_is_one_containers_of_one_incarnation() {
        let pod = |uid: &str| -> Pod {
            let meta = serde_json::json!({"name": "p", "namespace": "n", "uid": uid});
            serde_json::from_value(serde_json::json!({"metadata": meta})).expect("a pod")
        };
        let of = |name: &str, image: &str| Container {
            name: name.into(),
            image: Some(image.into()),
            ..Container::default()
        };
        let key = stable_key(&pod("u"), &of("web", "x:1"));
        assert!(key.starts_with("p_n_u_web_v1:"), "{key}");
        for other in [
            stable_key(&pod("other"), &of("web", "x:1")),
            stable_key(&pod("u"), &of("side", "x:1")),
            stable_key(&pod("u"), &of("web", "x:2")),
        ] {
            assert_ne!(key, other);
        }
        // What a bound pod's container keeps for ever is not looked at.
        let mut same = of("web", "x:1");
        same.tty = Some(true);
        assert_eq!(stable_key(&pod("u"), &same), key);
    }

    #[test]
    fn ten_minutes_of_running_or_another_image_begin_anew() {
        let start = Timestamp::from_second(1_000_000).expect("a time");
        let back_off = BackOff { delay: LONGEST, updated_at: start, series: "x:1".into() };
        let early = start + SignedDuration::from_secs(60);
        let late = start + SignedDuration::from_secs(601);
        assert!(back_off.holds("x:1", early, early).is_some());
        assert!(back_off.holds("x:1", late, late).is_none());
        assert!(back_off.holds("x:2", early, early).is_none());
        assert_eq!(BackOff::grown(Some(&back_off), "x:1", late, late).delay, FIRST);
        assert_eq!(go_duration(SignedDuration::from_secs(80)), "1m20s");
        assert_eq!(go_duration(LONGEST), "5m0s");
    }
}
