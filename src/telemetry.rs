//! Logging, the one printer of error chains, and the beats behind `/readyz`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line, colours on a terminal.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Starts logging to standard error. `filter` is in `tracing`'s directive syntax
/// (`info,ballast::node=debug`); `BALLAST_LOG` in the environment wins.
///
/// # Errors
/// The directive that is none.
pub fn start(
    filter: &str,
    format: LogFormat,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let chosen = std::env::var("BALLAST_LOG").unwrap_or_else(|_| filter.to_owned());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(chosen)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).compact().init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// An error and its causes, each once, joined by colons: `cannot fetch: connection refused`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let sentence = next.to_string();
        if !text.contains(&sentence) {
            let _ = write!(text, ": {sentence}");
        }
        cause = next.source();
    }
    text
}

/// Called by a loop after each completed pass, with the loop's name.
pub type Beat = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Which loops have completed a pass lately: *reconciling*, not merely alive. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Beats(Arc<Mutex<BTreeMap<&'static str, Loop>>>);

#[derive(Debug)]
struct Loop {
    last: Option<Instant>,
    /// A loop that has not completed a pass for this long is not reconciling.
    patience: Duration,
}

impl Beats {
    /// From now on the loop is expected to beat.
    pub fn expect(&self, name: &'static str, patience: Duration) {
        self.lock().insert(name, Loop { last: None, patience });
    }

    /// The callback that a loop gets.
    pub fn beat(&self) -> Beat {
        let beats = self.clone();
        Arc::new(move |name| {
            if let Some(known) = beats.lock().get_mut(name) {
                known.last = Some(Instant::now());
            }
        })
    }

    /// Every loop with what is wrong with it; `None` is fine.
    pub fn verdicts(&self) -> Vec<(&'static str, Option<String>)> {
        let judge = |state: &Loop| match state.last {
            None => Some("has not completed its first pass".to_owned()),
            Some(last) if last.elapsed() > state.patience => {
                Some(format!("last completed a pass {} s ago", last.elapsed().as_secs()))
            }
            Some(_) => None,
        };
        self.lock().iter().map(|(name, state)| (*name, judge(state))).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Loop>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_is_ready_after_its_first_pass_and_until_its_patience_ends() {
        let beats = Beats::default();
        beats.expect("sync", Duration::from_secs(10));
        assert!(beats.verdicts()[0].1.is_some());
        beats.beat()("sync");
        assert_eq!(beats.verdicts(), [("sync", None)]);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(beats.verdicts()[0].1.as_deref().is_some_and(|fault| fault.contains("11 s")));
    }
}
