//! Pulls images for the pods that wait for them, a few at a time, and tells those pods how far it is
//! and how it ended.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use crate::node::agent::{Agent, PodCell, lock};
use crate::node::image::pulled_message;
use crate::node::pod_worker::COMPONENT;
use crate::node::pull_progress::Pulled;
use crate::node::registry_credentials::{Credentials, Means, keyring};
use crate::node::runtime::{Pull, Runtime, RuntimeError};
use crate::object::{Cluster, Note};

/// Images that are pulled at a time. The kubelet pulls one (`serializeImagePulls`), and one slow
/// registry holds up all; the engine itself takes three layers at a time of each.
pub const PULLS: usize = 3;
/// A long pull says in an Event how far it is, so often.
const SAY: Duration = Duration::from_secs(30);
/// The kubelet's `image-pull-progress-deadline`: a pull of which nothing is heard for so long is given
/// up, and tried again after its back-off.
const STUCK: Duration = Duration::from_secs(60);

/// Begins the pull, or joins the one that is under way.
pub fn begin<C: Cluster, R: Runtime>(agent: &Arc<Agent<C, R>>, cell: &Arc<PodCell>, image: &str) {
    let pod = cell.pod();
    // A Secret that is not known any more: the next pass waits for it.
    let Some(keyring) = keyring(&pod, &agent.sources()) else { return };
    let means = keyring.lookup(image);
    let begins = lock(&agent.images).join(image, &means, &cell.uid, agent.clock.now());
    if !keyring.missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            keyring.missing.join(", ")
        );
        let note = Note::warning(&*pod, COMPONENT, "FailedToRetrieveImagePullSecret", message);
        agent.cluster.note(note);
    }
    let message = format!("Pulling image \"{image}\"");
    agent.cluster.note(Note::normal(&*pod, COMPONENT, "Pulling", message));
    if begins {
        let carrying_out = carry_out(agent.clone(), image.to_owned(), means);
        agent.tasks.spawn_short("pull", carrying_out);
    }
}

async fn carry_out<C: Cluster, R: Runtime>(agent: Arc<Agent<C, R>>, image: String, means: Means) {
    let place = agent.pulls.acquire().await.expect("the semaphore is never closed");
    let begun = agent.clock.now();
    // Whose image it is must be known after a crash too, so it is written down before it comes.
    let before = lock(&agent.images).present(&image);
    agent.pulled.change(|all| all.begin(&image, before, begun));
    let pulled = pull(&agent, &image, &means).await;
    drop(place);
    let facts = agent.runtime.image(&image).await;
    let now = agent.clock.now();
    if let Ok(facts) = &facts {
        let id = facts.as_ref().map(|facts| &*facts.id);
        agent.pulled.change(|all| all.end(&image, id, now));
    }
    let size = facts.as_ref().ok().and_then(|facts| facts.as_ref().map(|facts| facts.size));
    let waited = {
        let mut images = lock(&agent.images);
        if let Ok(facts) = facts {
            images.see(&image, facts.map(|facts| facts.id));
        }
        images.end(&image, &means, pulled.clone(), now)
    };
    for (uid, since) in waited {
        let (Some(cell), Some(pulled)) = (agent.cell(&uid), &pulled) else { continue };
        let note = match pulled {
            Ok(()) => {
                cell.memory().pulled.insert(image.clone());
                let (pulling, waiting) = (now.duration_since(begun), now.duration_since(since));
                let message = pulled_message(&image, pulling, waiting.max(pulling), size);
                Note::normal(&*cell.pod(), COMPONENT, "Pulled", message)
            }
            Err(why) => {
                let message = format!("Failed to pull image \"{image}\": {why}");
                Note::warning(&*cell.pod(), COMPONENT, "Failed", message)
            }
        };
        agent.cluster.note(note);
    }
    // Every pod that waits for this image.
    agent.wake_all();
}

/// With each of the credentials in turn, as nobody where there are none. `None`: the engine went away.
async fn pull<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    image: &str,
    means: &Means,
) -> Option<Result<(), String>> {
    let credentials = match means {
        Ok(credentials) => credentials,
        Err(why) => return Some(Err(why.clone())),
    };
    let nobody = credentials.is_empty().then_some(None);
    let mut refusals = Vec::new();
    for credentials in nobody.into_iter().chain(credentials.iter().cloned().map(Some)) {
        let error = match pull_once(agent, image, means, credentials).await {
            Ok(()) => return Some(Ok(())),
            Err(error) => error,
        };
        if agent.is_away(&error).await {
            return None;
        }
        warn!(image, %error, "image not pulled");
        refusals.push(error.to_string());
    }
    Some(Err(match &refusals[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }))
}

async fn pull_once<C: Cluster, R: Runtime>(
    agent: &Agent<C, R>,
    image: &str,
    means: &Means,
    credentials: Option<Credentials>,
) -> Result<(), RuntimeError> {
    let (progress, heard) = watch::channel(Pulled::default());
    let pull = Pull { reference: image.to_owned(), credentials, progress };
    let say = |pulled: Pulled| {
        info!(image, "image is still being pulled");
        let message = format!("Pulling image \"{image}\": {pulled}");
        for uid in lock(&agent.images).waiting(image, means) {
            let Some(cell) = agent.cell(&uid) else { continue };
            agent.cluster.note(Note::normal(&*cell.pod(), COMPONENT, "Pulling", &*message));
        }
    };
    match watched(agent.runtime.pull(&pull), heard, say).await {
        Ok(pulled) => pulled,
        Err(last) => Err(RuntimeError::Other(format!(
            "Cancel pulling image \"{image}\" because of no progress for 1m0s, latest progress: \"{last}\""
        ))),
    }
}

/// Lets somebody say now and then how far it is. The error is what was heard last of work that was
/// given up.
async fn watched<T>(
    work: impl Future<Output = T>,
    mut heard: watch::Receiver<Pulled>,
    say: impl Fn(Pulled),
) -> Result<T, Pulled> {
    let mut work = pin!(work);
    let mut stuck_at = Instant::now() + STUCK;
    let mut says = interval(SAY);
    says.set_missed_tick_behavior(MissedTickBehavior::Delay);
    says.reset();
    loop {
        // Cancel safe: the work is pinned outside, the rest takes nothing when dropped. The engine
        // ends a pull whose caller is gone.
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            Ok(()) = heard.changed() => stuck_at = Instant::now() + STUCK,
            () = sleep_until(stuck_at) => return Err(*heard.borrow()),
            _ = says.tick() => {
                let pulled = *heard.borrow();
                say(pulled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pull_says_how_far_it_is_and_is_given_up_when_nothing_is_heard() {
        let (tell, heard) = watch::channel(Pulled::default());
        let (begun, said) = (Instant::now(), Mutex::new(Vec::new()));
        let pull = async {
            for layers in 1..=3 {
                sleep(Duration::from_secs(25)).await;
                tell.send_replace(Pulled { layers, of_layers: 4, ..Pulled::default() });
            }
            std::future::pending::<()>().await;
        };
        let say = |pulled: Pulled| {
            said.lock().expect("no panic inside").push((begun.elapsed().as_secs(), pulled.layers));
        };
        let last = watched(pull, heard, say).await.expect_err("it never ends");
        assert_eq!((begun.elapsed().as_secs(), last.layers), (135, 3));
        let said = said.into_inner().expect("no panic inside");
        assert_eq!(said, [(30, 1), (60, 2), (90, 3), (120, 3)]);
        assert_eq!(last.to_string(), "3 of 4 layers, 0 of 0 MiB downloaded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_pull_of_which_something_is_heard_comes_to_its_end() {
        let (tell, heard) = watch::channel(Pulled::default());
        let pull = async {
            for _ in 0..100 {
                sleep(Duration::from_secs(59)).await;
                // Nothing is more than it was: the engine unpacks.
                tell.send_replace(Pulled::default());
            }
            7
        };
        assert_eq!(watched(pull, heard, |_| ()).await, Ok(7));
    }
}
