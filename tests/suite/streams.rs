//! exec and attach over WebSockets, to a node agent over the engine in memory: what is said and heard,
//! who may, and what ends a stream.

use std::path::Path;
use std::time::Duration;

use ballast::access_commands::revoke;
use ballast::api::server::{Limits, Surface};
use ballast::cli::GrantedRole;
use ballast::object::streams::TerminalSize;
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Event;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::fixture::{PATIENCE, until};
use crate::stream_world::{POD, StreamWorld, V4, V5, exec};

/// Waits for something that another process does.
async fn awaited(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

fn exit_code(code: i64) -> serde_json::Value {
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_heard_to_its_end_and_how_it_ended() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    for protocol in [V5, V4] {
        let script = "echo out; echo err >&2; sleep 0.1; echo last; exit 3";
        let path = exec(&["sh", "-c", script], "stdout=true&stderr=true");
        let stream = world.open(&token, &path, protocol).await.expect("a stream");
        assert_eq!(stream.answer.headers()["sec-websocket-protocol"], protocol);
        let heard = stream.hear_all().await;
        assert_eq!(heard.text(), ("out\nlast\n".to_owned(), "err\n".to_owned()));
        assert_eq!(heard.status, exit_code(3));
        assert_eq!(heard.close.expect("a close").code, CloseCode::Normal);
        let fine = world.ran(&token, &["echo", "a b", "c&d"], protocol).await;
        assert_eq!(fine.text().0, "a b c&d\n");
        assert_eq!(fine.status, json!({"metadata": {}, "status": "Success"}));
        let none = world.ran(&token, &["no-such-program"], protocol).await;
        assert!(none.text().0.contains("OCI runtime exec failed"), "{none:?}");
        assert_eq!(none.status, exit_code(127));
        // Only what was asked for is told.
        let path = exec(&["sh", "-c", "echo out; echo err >&2"], "stderr=true");
        let half = world.open(&token, &path, protocol).await.expect("a stream").hear_all().await;
        assert_eq!(half.text(), (String::new(), "err\n".to_owned()));
    }
    // The client's first offer that is spoken.
    let offers = format!("base64.channel.k8s.io, {V4}, {V5}");
    let path = exec(&["true"], "stdout=true");
    let stream = world.open(&token, &path, &offers).await.expect("a stream");
    assert_eq!(stream.answer.headers()["sec-websocket-protocol"], V4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_megabytes_go_there_and_come_back() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let path = exec(&["cat"], "stdin=true&stdout=true&stderr=true");
    let stream = world.open(&token, &path, V5).await.expect("a stream");
    let sent: Vec<u8> =
        (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut sink, mut answers) = stream.socket.split();
    let sending = async {
        for part in sent.chunks(32 * 1024) {
            let message = [&[0], part].concat();
            sink.send(Message::Binary(message.into())).await.expect("sent");
        }
        // Standard input ends; the stream goes on.
        sink.send(Message::Binary(vec![255, 0].into())).await.expect("sent");
    };
    let mut came = Vec::with_capacity(sent.len());
    let receiving = async {
        while let Some(Ok(message)) = answers.next().await {
            match message {
                Message::Binary(message) if message[0] == 1 => {
                    came.extend_from_slice(&message[1..])
                }
                Message::Binary(message) => {
                    let status: serde_json::Value =
                        serde_json::from_slice(&message[1..]).expect("JSON");
                    assert_eq!(status["status"], "Success");
                }
                _ => {}
            }
        }
    };
    let both = async { tokio::join!(sending, receiving) };
    tokio::time::timeout(PATIENCE, both).await.expect("in time");
    assert!(came == sent, "{} bytes came back", came.len());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_what_its_command_reads() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let done = world.served.fixture.folder().join("done");
    let script = format!("cat > {0}.part; mv {0}.part {0}", done.display());
    let path = exec(&["sh", "-c", &script], "stdin=true&stdout=true");
    for protocol in [V4, V5] {
        let mut stream = world.open(&token, &path, protocol).await.expect("a stream");
        // The Python client sends text as text.
        stream.socket.send(Message::Text("\u{0}hello ".into())).await.expect("sent");
        stream.say(0, b"world").await;
        match protocol {
            V4 => stream.socket.close(None).await.expect("closed"),
            // Without a word of the protocol. Not by dropping it: what it has not read would make
            // that a reset, which may overtake what it sent.
            _ => stream.socket.get_mut().shutdown().await.expect("gone"),
        }
        awaited("its input ended", || done.exists()).await;
        assert_eq!(std::fs::read(&done).expect("read"), b"hello world");
        std::fs::remove_file(&done).expect("removed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_clients_size() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let path = exec(&["cat"], "stdin=true&stdout=true&stderr=true&tty=true");
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    let (first, second) = ((80, 24), (120, 50));
    for (width, height) in [first, second] {
        let size = format!("{{\"Width\":{width},\"Height\":{height}}}\n");
        stream.say(4, size.as_bytes()).await;
        let wanted = TerminalSize { width, height };
        awaited("resized", || world.engine.sizes().last() == Some(&wanted)).await;
    }
    stream.say(0, b"typed\n").await;
    stream.hear_stdout("typed\n").await;
    stream.say(255, &[0]).await;
    assert_eq!(stream.hear_all().await.status["status"], "Success");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_hears_the_main_process_to_its_end() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let id = world.instance("web").id;
    let path = format!("{POD}/attach?container=web&stdin=true&stdout=true&stderr=true&tty=true");
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    awaited("attached", || world.engine.attached() == 1).await;
    world.engine.say(&id, "welcome\r\n");
    stream.hear_stdout("welcome").await;
    stream.say(0, b"typed").await;
    stream.hear_stdout("typed").await;
    stream.say(4, b"{\"Width\":100,\"Height\":30}").await;
    let size = TerminalSize { width: 100, height: 30 };
    awaited("resized", || world.engine.sizes() == [size]).await;
    // A second one hears the same; what one of them does is not the end of the other.
    let mut other = world.open(&token, &path, V4).await.expect("a stream");
    awaited("both attached", || world.engine.attached() == 2).await;
    drop(stream);
    awaited("one is gone", || world.engine.attached() == 1).await;
    for line in 0..200 {
        world.engine.say(&id, &format!("line {line}\r\n"));
    }
    world.engine.end(&id, 0, None);
    let heard = other.hear_all().await;
    assert!(heard.text().0.ends_with("line 198\r\nline 199\r\n"), "{:?}", heard.text());
    assert_eq!(heard.status, json!({"metadata": {}, "status": "Success"}));
    // It does not run any more: told over the stream, as the reference server tells its kubelet's.
    let words =
        "Internal error occurred: unable to upgrade connection: container not found (\"web\")";
    until::<k8s_openapi::api::core::v1::Pod>(&world.served.fixture.admin(), "web ended", |pods| {
        let ended = |pod: &k8s_openapi::api::core::v1::Pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let web = statuses.iter().find(|status| status.name == "web")?;
            web.state.as_ref()?.terminated.clone()
        };
        pods.iter().any(|pod| ended(pod).is_some())
    })
    .await;
    for path in [path, format!("{POD}/exec?command=sh&container=web&stdout=true")] {
        let heard = world.open(&token, &path, V5).await.expect("a stream").hear_all().await;
        assert_eq!(heard.status["message"], words);
        assert_eq!(heard.status["code"], 500);
    }
    other = world.open(&token, &exec(&["true"], "stdout=true"), V5).await.expect("the other runs");
    assert_eq!(other.hear_all().await.status["status"], "Success");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_opened_is_refused_as_any_request() {
    let world = StreamWorld::new().await;
    let operator = world.operator("ops");
    let viewer = world.served.token(GrantedRole::Viewer, "ada");
    let fine = exec(&["sh"], "stdout=true");
    let refused = world.open(&viewer, &fine, V5).await.err();
    let words = "pods \"p\" is forbidden: User \"ada\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"";
    assert_eq!(refused, Some((403, words.to_owned())));
    let other = "/api/v1/namespaces/default/pods";
    for (path, protocol, code, words) in [
        (
            fine.as_str(),
            "channel.k8s.io",
            400,
            "requested protocol(s) are not supported: [channel.k8s.io]; supports [v5.channel.k8s.io v4.channel.k8s.io]",
        ),
        (&exec(&["sh"], ""), V5, 400, "you must specify at least 1 of stdin, stdout, stderr"),
        (
            &exec(&["sh"], "tty=true&stderr=true"),
            V5,
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            &exec(&[], "stdout=true"),
            V5,
            400,
            "you must specify at least one command for the container",
        ),
        (
            &format!("{POD}/exec?command=sh&stdout=true"),
            V5,
            400,
            "a container name must be specified for pod p, choose one of: [web side]",
        ),
        (
            &format!("{POD}/exec?command=sh&stdout=true&container=x"),
            V5,
            400,
            "container x is not valid for pod p",
        ),
        (&format!("{other}/nope/exec?command=sh&stdout=true"), V5, 404, "pods \"nope\" not found"),
        (
            &format!("{other}/waits/exec?command=sh&stdout=true"),
            V5,
            400,
            "pod waits does not have a host assigned",
        ),
    ] {
        let refused = world.open(&operator, path, protocol).await.err();
        assert_eq!(refused, Some((code, words.to_owned())), "{path}");
    }
    let bearer = format!("Host: localhost\r\nAuthorization: Bearer {operator}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
    for (line, head, code, words) in [
        ("GET", "", 400, "Upgrade request required"),
        ("POST", "", 400, "Upgrade request required"),
        ("PUT", upgrade, 405, "does not allow this method"),
        ("GET", &upgrade.replace("13", "8"), 400, "WebSocket Version"),
        // A page of another site, with a credential that its visitor's browser sends along.
        ("GET", &format!("{upgrade}Origin: https://evil.example\r\n"), 403, "pages of other sites"),
    ] {
        let line = format!("{line} {fine}");
        let answer = world.served.ask(&line, &format!("{bearer}{head}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{line}: {answer}");
        assert!(answer.contains(words), "{line}: {answer}");
    }
    let (line, head) = (format!("GET {fine}"), format!("Host: localhost\r\n{upgrade}"));
    assert!(world.served.ask(&line, &head).await.starts_with("HTTP/1.1 401"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_is_an_event_and_an_audit_line() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    world.ran(&token, &["echo", "token=hunter2"], V5).await;
    let attach = format!("{POD}/attach?container=web&stdout=true");
    let stream = world.open(&token, &attach, V5).await.expect("a stream");
    awaited("attached", || world.engine.attached() == 1).await;
    drop(stream);
    until::<Event>(&world.served.fixture.admin(), "an Event of each", |events| {
        let said = |reason: &str, words: &str| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.name.as_deref() == Some("p")
                    && event.message.as_deref() == Some(words)
            })
        };
        // Everybody reads Events: the arguments of a command are the audit log's alone.
        said("Exec", "ops ran \"echo\" in container side, from 127.0.0.1")
            && said("Attach", "ops attached to container web, from 127.0.0.1")
    })
    .await;
    let lines = world.served.audited(2).await;
    for (line, part) in lines.iter().zip(["exec", "attach"]) {
        assert_eq!(
            (&line["who"], &line["verb"], &line["resource"], &line["subresource"], &line["code"]),
            (&json!("ops"), &json!("create"), &json!("pods"), &json!(part), &json!(101)),
        );
        assert_eq!((&line["decision"], &line["name"]), (&json!("allow"), &json!("p")));
    }
    assert!(lines[0]["path"].as_str().expect("a path").contains("hunter2"), "{}", lines[0]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_ends_what_is_open() {
    let world = StreamWorld::new().await;
    let (token, other) = (world.operator("ops"), world.operator("eve"));
    let path = exec(&["cat"], "stdin=true&stdout=true");
    let stream = world.open(&token, &path, V5).await.expect("a stream");
    let mut stays = world.open(&other, &path, V5).await.expect("a stream");
    revoke(world.served.fixture.folder(), "ops").expect("revoked");
    let heard = stream.hear_all().await;
    assert_eq!(heard.status["reason"], "Unauthorized");
    assert_eq!(heard.status["message"], "the credential was revoked or has run out");
    assert_eq!(heard.close.expect("a close").code, CloseCode::Normal);
    stays.say(0, b"still here").await;
    stays.hear_stdout("still here").await;
    drop(stays);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_daemon_says_so_and_ends_streams() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let path = exec(&["cat"], "stdin=true&stdout=true");
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    stream.say(0, b"begun").await;
    stream.hear_stdout("begun").await;
    let silent = world.open(&token, &path, V5).await.expect("a stream");
    let begun = std::time::Instant::now();
    let (heard, ()) = tokio::join!(stream.hear_all(), world.end());
    assert_eq!(heard.status["reason"], "ServiceUnavailable");
    assert!(heard.status["message"].as_str().expect("text").contains("stopping"));
    // One whose client neither reads nor closes holds nobody up.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_are_a_hundred_and_no_more_than_the_share() {
    let mut limits = Limits::new(Surface::Secured);
    limits.share.streams = 100;
    let world = StreamWorld::limited(limits).await;
    let token = world.operator("ops");
    let path = exec(&["cat"], "stdin=true&stdout=true");
    let opening = (0..100).map(|_| world.open(&token, &path, V5));
    let mut streams = futures::future::join_all(opening).await;
    for (number, stream) in streams.iter_mut().enumerate() {
        let stream = stream.as_mut().expect("a stream");
        stream.say(0, format!("I am {number}.").as_bytes()).await;
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let stream = stream.as_mut().expect("a stream");
        stream.hear_stdout(&format!("I am {number}.")).await;
    }
    let refused = world.open(&token, &path, V5).await.err();
    assert_eq!(refused.map(|(code, _)| code), Some(429));
    let other = world.operator("eve");
    assert!(world.open(&other, &path, V5).await.is_ok(), "hers are her own");
    // What ended makes room.
    let first = streams.swap_remove(0).expect("a stream");
    drop(first);
    let again = async {
        while world.open(&token, &path, V5).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("room again");
    drop(streams);
    world.end().await;
}

fn number(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_the_command_up_and_is_given_up() {
    let mut limits = Limits::new(Surface::Secured);
    limits.stall_time = Duration::from_secs(2);
    let world = StreamWorld::limited(limits).await;
    let token = world.operator("ops");
    let folder = world.served.fixture.folder().to_owned();
    let (count, ended) = (folder.join("count"), folder.join("ended"));
    // 64 KiB at a time, counted; when nobody reads any more the pipe breaks.
    let script = format!(
        "trap '' PIPE; i=0; while head -c 65536 /dev/zero 2>/dev/null; do i=$((i+1)); echo $i > {}; done; echo > {}",
        count.display(),
        ended.display()
    );
    let path = exec(&["sh", "-c", &script], "stdout=true");
    let stream = world.open(&token, &path, V5).await.expect("a stream");
    awaited("given up", || ended.exists()).await;
    // The kernel's buffers of two sockets and a pipe, and one part of ours.
    let megabytes = number(&count) * 65536 / 1_000_000;
    assert!((1..64).contains(&megabytes), "{megabytes} MB were taken from it");
    drop(stream);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_protocol_is_told_how() {
    let world = StreamWorld::new().await;
    let token = world.operator("ops");
    let path = exec(&["cat"], "stdin=true&stdout=true");
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    stream.say(255, &[9]).await;
    let heard = stream.hear_all().await;
    assert_eq!(heard.status["message"], "a close signal names one channel");
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    let long = vec![0; (4 << 20) + 1];
    // Its end may be refused while it is sent.
    let _ = stream.socket.send(Message::Binary(long.into())).await;
    let heard = stream.hear_all().await;
    if let Some(words) = heard.status["message"].as_str() {
        assert!(words.contains("4194304 bytes at most"), "{words}");
    }
    assert!(heard.stdout.is_empty(), "nothing of it came to the command");
    // Channels that are not there, or not the client's, are passed over.
    let mut stream = world.open(&token, &path, V5).await.expect("a stream");
    for channel in [1, 2, 3, 5, 200] {
        stream.say(channel, b"nothing").await;
    }
    stream.say(0, b"something").await;
    stream.say(255, &[0]).await;
    assert_eq!(stream.hear_all().await.text().0, "something");
    world.end().await;
}
