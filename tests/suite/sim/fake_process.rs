//! What runs in a container of the engine in memory: a command is one of this machine, the main
//! process answers everything that it is told.

use std::io::Error;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use ballast::node::runtime::RuntimeError;
use ballast::object::streams::{Channels, Input, Process, Said, TerminalSize};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Sink, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStdin, Command};
use tokio_util::codec::{BytesCodec, FramedWrite};

fn lost(error: &Error) -> RuntimeError {
    RuntimeError::Other(error.to_string())
}

/// The command of this machine; `resized` hears of its terminal's sizes, which it does not have.
pub fn command(
    command: &[String],
    channels: Channels,
    resized: impl Fn(TerminalSize) -> Result<(), RuntimeError> + Send + Sync + 'static,
) -> Process<RuntimeError> {
    let resize = move |size| futures::future::ready(resized(size)).boxed();
    let resize = Box::new(resize);
    let mut words = Command::new(if channels.tty { "sh" } else { &command[0] });
    // A terminal has one output.
    match channels.tty {
        true => words.args(["-c", "exec \"$@\" 2>&1", "sh"]).args(command),
        false => words.args(&command[1..]),
    };
    let stdin = if channels.stdin { Stdio::piped() } else { Stdio::null() };
    let child = words.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        // As Docker has it: the output says so.
        Err(error) => {
            let said = Bytes::from(format!("OCI runtime exec failed: exec: {error}\r\n"));
            let output = futures::stream::iter([Ok(Said::Stdout(said))]).boxed();
            let ended = futures::future::ok(Some(127)).boxed();
            return Process { input: Box::pin(Stdin(None)), output, resize, ended };
        }
    };
    let input = child.stdin.take().map(|stdin| FramedWrite::new(stdin, BytesCodec::new()));
    let out = parts(child.stdout.take().expect("a pipe"), Said::Stdout);
    let err = parts(child.stderr.take().expect("a pipe"), Said::Stderr);
    let ended = async move {
        let status = child.wait().await.map_err(|error| lost(&error))?;
        Ok(Some(status.code().map_or(137, i64::from)))
    };
    let input: Input<RuntimeError> = Box::pin(Stdin(input));
    let output = futures::stream::select(out, err).boxed();
    Process { input, output, resize, ended: ended.boxed() }
}

fn parts(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    which: fn(Bytes) -> Said,
) -> impl futures::Stream<Item = Result<Said, RuntimeError>> + Send {
    futures::stream::try_unfold(pipe, move |mut pipe| async move {
        let mut buffer = BytesMut::with_capacity(32 * 1024);
        let read = pipe.read_buf(&mut buffer).await.map_err(|error| lost(&error))?;
        Ok((read > 0).then(|| (which(buffer.freeze()), pipe)))
    })
}

/// Closed when it is closed: tokio's own closes with its drop.
struct Stdin(Option<FramedWrite<ChildStdin, BytesCodec>>);

impl Stdin {
    fn open(&mut self) -> Result<Pin<&mut FramedWrite<ChildStdin, BytesCodec>>, RuntimeError> {
        let closed = || RuntimeError::Other("standard input is closed".to_owned());
        self.0.as_mut().map(Pin::new).ok_or_else(closed)
    }
}

impl Sink<Bytes> for Stdin {
    type Error = RuntimeError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RuntimeError>> {
        Sink::<Bytes>::poll_ready(self.open()?, context).map_err(|error| lost(&error))
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Bytes) -> Result<(), RuntimeError> {
        self.open()?.start_send(bytes).map_err(|error| lost(&error))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RuntimeError>> {
        Sink::<Bytes>::poll_flush(self.open()?, context).map_err(|error| lost(&error))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RuntimeError>> {
        if self.0.is_some() {
            ready!(self.as_mut().poll_flush(context))?;
            self.0 = None;
        }
        Poll::Ready(Ok(()))
    }
}
