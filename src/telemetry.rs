//! Logging, and the one printer of error chains.

use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal;

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
