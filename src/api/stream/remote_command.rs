//! `kubectl exec` and `attach`, and `cp`, which is an exec of tar: what a request asks for, and the
//! protocol that its client speaks.

use axum::response::Response;
use tracing::debug;

use crate::api::access::Part;
use crate::api::stream::channels::Version;
use crate::api::stream::conversation::{Starting, converse};
use crate::api::stream::opening::Call;
use crate::api::stream::spdy_connection::{self, plain};
use crate::api::stream::spdy_handshake::agreed;
use crate::api::stream::upgrade::{Ending, Upgrade, Use};
use crate::api::stream::{
    spdy_client,
    websocket::{self, Handshake},
};
use crate::api::subresources::container;
use crate::object::streams::{AttachQuery, Channels, ExecQuery};
use crate::object::{ApiError, reference};
use crate::store::Store;

/// # Errors
/// `BadRequest` for a container that is not the pod's, for a request without channels or a command,
/// and for one that asks for no upgrade or for a protocol that is not spoken.
pub(crate) async fn open<S: Store>(call: Call<'_, S>) -> Result<Response, ApiError> {
    let Call { api, part, key, pod, pairs, parts, streams } = call;
    let value = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let asked = value("container").filter(|name| !name.is_empty()).cloned();
    let container = container(&pod, asked)?;
    let upgrade = Upgrade::of(parts)?;
    let channels = channels(&pairs)?;
    let (starting, what): (Box<dyn FnOnce() -> Starting + Send>, String) = match part {
        Part::Attach => {
            let what = format!("attached to container {container}");
            let query = AttachQuery { container, channels };
            (Box::new(move || streams.attach(key, query)), what)
        }
        _ => {
            let command = command(&pairs)?;
            // Everybody reads Events, and an argument may be a secret: the audit log has them.
            let what = format!("ran {:?} in container {container}", command[0]);
            let query = ExecQuery { container, command, channels };
            (Box::new(move || streams.exec(key, query)), what)
        }
    };
    if !websocket::asked(&parts.headers) {
        let spoken = Version::V4.name();
        let answer = agreed(&parts.headers, spoken)?.ok_or_else(|| {
            let words = format!("unable to upgrade: name the protocol, {spoken} is spoken here");
            ApiError::bad_request(words)
        })?;
        let used = Use { part, about: reference(&*pod), what };
        let switch = move |connection, ending: Ending| async move {
            let serve = |opened| async move {
                let Some(client) = spdy_client::client(opened, channels).await else { return };
                converse(client, part, channels, starting(), ending).await;
            };
            // Who is told why it ends is told that in the conversation.
            let never = std::future::pending();
            let session =
                spdy_connection::converse(plain(connection), spdy_client::admits, never, serve);
            let ended = session.await;
            debug!(%ended, "a session ended");
        };
        return Ok(upgrade.switch(api, used, "SPDY/3.1", &[answer], switch));
    }
    let handshake = Handshake::of(parts, &[Version::V5.name(), Version::V4.name()])?;
    let version = Version::of(handshake.protocol).unwrap_or(Version::V4);
    let used = Use { part, about: reference(&*pod), what };
    let switch = move |connection, ending| async move {
        let socket = websocket::socket(connection).await;
        let client = websocket::client(socket, version);
        converse(client, part, channels, starting(), ending).await;
    };
    Ok(upgrade.switch(api, used, "websocket", &handshake.headers(), switch))
}

/// # Errors
/// `BadRequest` where there is none, in the kubelet's words.
fn channels(pairs: &[(String, String)]) -> Result<Channels, ApiError> {
    // As the reference server reads a boolean: what is there and does not say no.
    let flag = |name: &str| {
        let value = pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    };
    let tty = flag("tty");
    // A terminal has one output; the kubelet passes over the other one too.
    let channels = Channels {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        stderr: flag("stderr") && !tty,
        tty,
    };
    match channels {
        Channels { stdin: false, stdout: false, stderr: false, .. } => {
            Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
        }
        channels => Ok(channels),
    }
}

/// # Errors
/// `BadRequest` where there is none.
fn command(pairs: &[(String, String)]) -> Result<Vec<String>, ApiError> {
    let words = pairs.iter().filter(|(key, _)| key == "command");
    let command: Vec<String> = words.map(|(_, word)| word.clone()).collect();
    match command.first() {
        Some(program) if !program.is_empty() => Ok(command),
        _ => Err(ApiError::bad_request("you must specify at least one command for the container")),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::query::pairs;

    use super::*;

    #[test]
    fn channels_are_flags() {
        let of = |raw: &str| channels(&pairs(raw));
        let all = Channels { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(of("stdin=true&stdout=true&stderr=true"), Ok(all));
        assert_eq!(of("stdin=1&stdout&stderr=yes&tty=false"), Ok(all));
        let terminal = Channels { stderr: false, tty: true, ..all };
        assert_eq!(of("stdin=true&stdout=true&stderr=true&tty=true"), Ok(terminal));
        for none in ["", "stdin=false&stdout=False&stderr=0", "stderr=true&tty=true"] {
            let refused = of(none).expect_err(none);
            assert_eq!(refused.message, "you must specify at least 1 of stdin, stdout, stderr");
        }
    }

    #[test]
    fn a_command_is_its_words_in_order() {
        let words = command(&pairs("command=sh&stdout=true&command=-c&command=echo%20a+b"));
        assert_eq!(words, Ok(vec!["sh".into(), "-c".into(), "echo a b".into()]));
        assert!(command(&pairs("stdout=true")).is_err());
        assert!(command(&pairs("command=")).is_err());
    }
}
