//! A client and a process: what the one says goes to the other, at the speed of the slower one, until
//! the process, the client, the credential or the daemon ends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::access::Part;
use crate::api::stream::client::{Client, Heard, Told};
use crate::api::stream::outcome::{self, Outcome};
use crate::api::stream::terminal::Sizes;
use crate::api::stream::upgrade::Ending;
use crate::object::ports::BoxFuture;
use crate::object::streams::{Channels, Input, Process, Said, TerminalSize};
use crate::object::{ApiError, Reason};

/// Between two pings of a client that is told nothing else: within the 60 s after which a reverse
/// proxy gives up by default (nginx's proxy_read_timeout). That it answers is not asked for.
const ALIVE: Duration = Duration::from_secs(30);
/// Without a byte in either direction: the kubelet's `streamingConnectionIdleTimeout`.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// For a client to read what was said, and close. A close at once would be a reset where something
/// of the client's is unread, which takes with it what is still on its way (the reference server's
/// `finishTimeout`, and its reason).
const FINISH: Duration = Duration::from_secs(15 * 60);
/// How often a size is given to a terminal that may not be there yet; docker's own client does it so.
const RESIZES: u32 = 10;
const RESIZE_PAUSE: Duration = Duration::from_millis(10);

/// What is begun when the client is there.
pub(crate) type Starting = BoxFuture<Result<Process<ApiError>, ApiError>>;

/// When something was last said.
struct Seen(Mutex<Instant>);

/// How a client left.
enum Left {
    Gone,
    /// It broke the protocol.
    Fault(String),
}

/// Until it is over, and the client knows how it ended.
pub(crate) async fn converse(
    client: Client,
    part: Part,
    channels: Channels,
    starting: Starting,
    ending: Ending,
) {
    let Client { mut heard, mut telling } = client;
    // As the reference server: so that a client knows that it is there.
    let nothing = Bytes::new();
    let first = match channels {
        Channels { stdout: true, .. } => Told::Stdout(nothing),
        Channels { stderr: true, .. } => Told::Stderr(nothing),
        _ => Told::Status(nothing),
    };
    if telling.send(first).await.is_err() {
        return;
    }
    let started = tokio::select! {
        biased;
        // Cancel safe: the end stays.
        end = ending.come() => Err(end.error()),
        // Dropped with the stream: what was begun loses its caller.
        started = starting => started.map_err(|error| outcome::failed(part, error, false)),
    };
    let (seen, over) = (Seen(Mutex::new(Instant::now())), CancellationToken::new());
    let (sizes, terminal) = watch::channel(None);
    let (input, process) = match started {
        Ok(Process { input, output, resize, ended }) => {
            (channels.stdin.then_some(input), Ok((output, resize, ended)))
        }
        Err(error) => (None, Err(error)),
    };
    let mut listening = std::pin::pin!(listen(&mut heard, input, sizes, &seen, &over));
    let mut left = false;
    let outcome = match process {
        Err(error) => Err(error),
        Ok((output, resize, ended)) => {
            let said = output.filter(|said| futures::future::ready(is_asked(said, channels)));
            let talking = talk(&mut telling, said, ended, &seen, part);
            let resizing = follow(terminal, &*resize);
            tokio::select! {
                biased;
                // Cancel safe: the end stays.
                end = ending.come() => Err(end.error()),
                // Listened to on below, unless it is done.
                gone = listening.as_mut() => match gone {
                    Left::Gone => return,
                    Left::Fault(words) => {
                        left = true;
                        Err(ApiError::bad_request(words))
                    }
                },
                // Dropped only when nobody is to be told any more.
                talked = talking => match talked {
                    Some(outcome) => outcome,
                    None => return,
                },
                // Cancel safe: a size that is not given is of no use any more.
                () = resizing, if channels.tty => return,
            }
        }
    };
    over.cancel();
    let status = Told::Status(outcome::told(&outcome));
    if telling.send(status).await.is_err() || telling.send(Told::End).await.is_err() || left {
        return;
    }
    let _ = timeout(FINISH, listening).await;
}

fn is_asked(said: &Result<Said, ApiError>, channels: Channels) -> bool {
    match said {
        Ok(Said::Stdout(_)) => channels.stdout,
        Ok(Said::Stderr(_)) => channels.stderr,
        Err(_) => true,
    }
}

/// Hands on what the client says, until it is gone. After `over` nothing is handed on.
async fn listen(
    heard: &mut (impl StreamExt<Item = Heard> + Unpin),
    mut input: Option<Input<ApiError>>,
    sizes: watch::Sender<Option<TerminalSize>>,
    seen: &Seen,
    over: &CancellationToken,
) -> Left {
    let mut read = Sizes::default();
    loop {
        let word = tokio::select! {
            biased;
            // Cancel safe: a cancelled token stays cancelled.
            () = over.cancelled(), if input.is_some() => {
                input = None;
                continue;
            }
            // Cancel safe: a stream's next takes nothing when it is dropped.
            word = heard.next() => word,
        };
        seen.now();
        match word {
            None => return Left::Gone,
            Some(Heard::Fault(words)) => return Left::Fault(words),
            Some(Heard::Stdin(bytes)) => {
                let Some(open) = &mut input else { continue };
                let taken = tokio::select! {
                    biased;
                    // Cancel safe: a cancelled token stays cancelled.
                    () = over.cancelled() => false,
                    // Dropped with the input.
                    sent = open.send(bytes) => sent.is_ok(),
                };
                // A process that reads no more may have much to say.
                if !taken {
                    input = None;
                }
            }
            Some(Heard::StdinEnd) => {
                let Some(mut open) = input.take() else { continue };
                tokio::select! {
                    biased;
                    // Cancel safe: a cancelled token stays cancelled.
                    () = over.cancelled() => {}
                    // Dropped with the input.
                    _ = open.close() => {}
                }
            }
            Some(Heard::Resize(bytes)) => {
                if let Some(size) = read.read(&bytes) {
                    sizes.send_replace(Some(size));
                }
            }
        }
    }
}

/// Tells the client what the process says, and then how it ended; `None`: the client is gone.
async fn talk(
    telling: &mut (impl SinkExt<Told> + Unpin),
    output: impl futures::Stream<Item = Result<Said, ApiError>>,
    mut ended: BoxFuture<Result<Option<i64>, ApiError>>,
    seen: &Seen,
    part: Part,
) -> Option<Outcome> {
    let mut output = std::pin::pin!(output);
    let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut speaks = true;
    loop {
        let told = tokio::select! {
            biased;
            // Cancel safe: a stream's next takes nothing when it is dropped.
            said = output.next(), if speaks => match said {
                Some(Ok(Said::Stdout(bytes))) => Told::Stdout(bytes),
                Some(Ok(Said::Stderr(bytes))) => Told::Stderr(bytes),
                Some(Err(error)) => return Some(Err(outcome::failed(part, error, true))),
                None => {
                    speaks = false;
                    continue;
                }
            },
            // Polled again in the next turn.
            ended = &mut ended, if !speaks => {
                return Some(ended.map_err(|error| outcome::failed(part, error, true)));
            }
            // Cancel safe: a tick that is not taken is there in the next turn.
            _ = alive.tick() => Told::Alive,
        };
        match told {
            Told::Alive if seen.elapsed() > IDLE => {
                let words = "nothing was said for four hours";
                return Some(Err(ApiError::new(Reason::Timeout, words)));
            }
            Told::Alive => {}
            _ => seen.now(),
        }
        telling.send(told).await.ok()?;
    }
}

/// Gives the terminal its size whenever there is another one; for ever.
async fn follow(
    mut sizes: watch::Receiver<Option<TerminalSize>>,
    resize: &(dyn Fn(TerminalSize) -> BoxFuture<Result<(), ApiError>> + Send + Sync),
) {
    while sizes.changed().await.is_ok() {
        for attempt in 1..=RESIZES {
            let Some(size) = *sizes.borrow_and_update() else { break };
            match resize(size).await {
                Ok(()) => break,
                Err(error) if attempt == RESIZES => debug!(%error, "terminal not resized"),
                // The engine knows the terminal when the process has begun.
                Err(_) => sleep(RESIZE_PAUSE * attempt).await,
            }
        }
    }
    std::future::pending().await
}

impl Seen {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::channel::mpsc;
    use serde_json::Value;

    use super::*;

    const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };

    type Ear = mpsc::Receiver<Told>;

    /// A client that has room for one word, what it says, and what it is told.
    fn client() -> (Client, mpsc::UnboundedSender<Heard>, Ear) {
        let (says, heard) = mpsc::unbounded();
        let (telling, told) = mpsc::channel(0);
        let telling = telling.sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        (Client { heard: heard.boxed(), telling: Box::pin(telling) }, says, told)
    }

    fn process(
        input: Input<ApiError>,
        output: impl futures::Stream<Item = Result<Said, ApiError>> + Send + 'static,
    ) -> Starting {
        let resize =
            Box::new(|_| -> BoxFuture<Result<(), ApiError>> { unreachable!("no terminal") });
        let ended = Box::pin(futures::future::ok(Some(0)));
        let process = Process { input, output: output.boxed(), resize, ended };
        Box::pin(futures::future::ok(process))
    }

    fn deaf() -> Input<ApiError> {
        let (input, unread) = mpsc::channel(0);
        // Kept, and never read.
        std::mem::forget(unread);
        Box::pin(input.sink_map_err(|_| ApiError::internal("closed")))
    }

    fn status(told: &Told) -> Value {
        let Told::Status(bytes) = told else { panic!("{told:?}") };
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_pinged_and_after_four_hours_let_go() {
        let (client, says, mut told) = client();
        let silent = process(deaf(), futures::stream::pending());
        let talk = converse(client, Part::Exec, ALL, silent, Ending::never());
        let begun = Instant::now();
        let hear = async {
            assert_eq!(told.next().await, Some(Told::Stdout(Bytes::new())), "it is there");
            let mut pings = 0;
            let last = loop {
                match told.next().await.expect("it goes on") {
                    Told::Alive => pings += 1,
                    other => break other,
                }
            };
            assert_eq!(pings, IDLE.as_secs() / ALIVE.as_secs());
            assert_eq!(status(&last)["message"], "nothing was said for four hours");
            assert_eq!(told.next().await, Some(Told::End));
            drop(says);
        };
        tokio::join!(talk, hear);
        assert_eq!(begun.elapsed(), IDLE + ALIVE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_stops_the_process() {
        let (client, _says, mut told) = client();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let output = futures::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Said::Stdout(Bytes::from_static(&[0; 1024])))
        });
        let endless = process(deaf(), output);
        let talk = converse(client, Part::Exec, ALL, endless, Ending::never());
        let hear = async {
            for _ in 0..11 {
                assert!(matches!(told.next().await, Some(Told::Stdout(_))));
            }
            sleep(Duration::from_secs(3600)).await;
        };
        tokio::select! {
            biased;
            () = talk => panic!("it ended"),
            () = hear => {}
        }
        let taken = taken.load(Ordering::Relaxed);
        assert!((10..=12).contains(&taken), "{taken} parts for the ten that were read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_read_is_heard_all_the_same() {
        let (client, says, mut told) = client();
        for _ in 0..100 {
            says.unbounded_send(Heard::Stdin(Bytes::from_static(b"much"))).expect("said");
        }
        let words = (0..100).map(|_| Ok(Said::Stderr(Bytes::from_static(b"word"))));
        // It begins to speak when it has been told more than it takes.
        let output = futures::stream::once(sleep(Duration::from_secs(1)))
            .filter_map(|()| futures::future::ready(None))
            .chain(futures::stream::iter(words));
        let talk = converse(client, Part::Exec, ALL, process(deaf(), output), Ending::never());
        let hear = async {
            let mut heard = 0;
            let last = loop {
                match told.next().await.expect("it goes on") {
                    Told::Stderr(_) => heard += 1,
                    Told::Stdout(_) => {}
                    other => break other,
                }
            };
            assert_eq!((heard, &status(&last)["status"]), (100, &Value::from("Success")));
            assert_eq!(told.next().await, Some(Told::End));
            drop(says);
        };
        tokio::join!(talk, hear);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_closes_is_closed() {
        let (client, says, mut told) = client();
        let short = process(deaf(), futures::stream::empty());
        let begun = Instant::now();
        let talk = converse(client, Part::Exec, ALL, short, Ending::never());
        let hear = async { while told.next().await.is_some() {} };
        tokio::join!(talk, hear);
        assert_eq!(begun.elapsed(), FINISH);
        drop(says);
    }
}
