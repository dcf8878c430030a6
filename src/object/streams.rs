//! Pure: how the API enters what runs: a command in a container, its main process, a port of its
//! pod. Bytes go in by a sink and come out by a stream, each at the speed of the slower side: nobody
//! in between keeps more than one part of either.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Sink, SinkExt, StreamExt, TryFutureExt};

use crate::object::ports::BoxFuture;
use crate::object::{ApiError, Key};

/// Bytes on their way in. Closing it ends what the other side reads.
pub type Input<E> = Pin<Box<dyn Sink<Bytes, Error = E> + Send>>;

/// Which channels of a process the caller is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A terminal: standard error comes with standard output then.
    pub tty: bool,
}

/// A command to be run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecQuery {
    pub container: String,
    /// The program and its arguments, no shell.
    pub command: Vec<String>,
    pub channels: Channels,
}

/// A container whose main process is to be attached to. Whether that has a terminal says the pod,
/// not the caller: [`Channels::tty`] counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachQuery {
    pub container: String,
    pub channels: Channels,
}

/// A part of what a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// A process and the caller's ends of its channels. Where both are dropped it has lost its caller: its
/// input ends, and its output goes nowhere.
pub struct Process<E> {
    /// Unused where no standard input was asked for.
    pub input: Input<E>,
    /// Ends when the process has said everything.
    pub output: BoxStream<'static, Result<Said, E>>,
    /// Gives its terminal a size.
    pub resize: Box<dyn Fn(TerminalSize) -> BoxFuture<Result<(), E>> + Send + Sync>,
    /// How it ended, asked after its output has: its exit code, or `None` where nobody waits for one
    /// (a main process that was attached to goes on, or is the pod's matter).
    pub ended: BoxFuture<Result<Option<i64>, E>>,
}

/// A connection to a port of a pod.
pub struct PortConnection<E> {
    /// Closing it is half a close: the other side may still answer.
    pub input: Input<E>,
    pub output: BoxStream<'static, Result<Bytes, E>>,
}

impl<E: Send + 'static> Process<E> {
    /// The same with other errors.
    pub fn map_err<F: 'static>(self, to: fn(E) -> F) -> Process<F> {
        let resize = self.resize;
        Process {
            input: Box::pin(self.input.sink_map_err(to)),
            output: self.output.map(move |part| part.map_err(to)).boxed(),
            resize: Box::new(move |size| Box::pin(resize(size).map_err(to))),
            ended: Box::pin(self.ended.map_err(to)),
        }
    }
}

impl<E: Send + 'static> PortConnection<E> {
    /// The same with other errors.
    pub fn map_err<F: 'static>(self, to: fn(E) -> F) -> PortConnection<F> {
        PortConnection {
            input: Box::pin(self.input.sink_map_err(to)),
            output: self.output.map(move |part| part.map_err(to)).boxed(),
        }
    }
}

/// Enters what runs; implemented by `node`. Whether the caller may is decided before, by the API.
pub trait Streams: Send + Sync + 'static {
    /// Starts a command in a running container.
    fn exec(&self, pod: Key, query: ExecQuery) -> BoxFuture<Result<Process<ApiError>, ApiError>>;

    /// Joins the main process of a running container, from now on.
    fn attach(
        &self,
        pod: Key,
        query: AttachQuery,
    ) -> BoxFuture<Result<Process<ApiError>, ApiError>>;

    /// Connects to a TCP port in the pod's network, as a process of the pod would by `localhost`.
    fn connect(&self, pod: Key, port: u16)
    -> BoxFuture<Result<PortConnection<ApiError>, ApiError>>;
}
