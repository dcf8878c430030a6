//! Pure: what a client of `exec` or `attach` says and is told, whatever the protocol.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures::Sink;
use futures::stream::BoxStream;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Stdin(Bytes),
    /// There is no more standard input; the client still reads.
    StdinEnd,
    /// Of the sizes of its terminal, as JSON.
    Resize(Bytes),
    /// It breaks the protocol, in these words: the last thing that is heard.
    Fault(String),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Stdout(Bytes),
    Stderr(Bytes),
    /// How it ended, as JSON: once, after everything else.
    Status(Bytes),
    /// That there is still somebody: a ping.
    Alive,
    /// There is nothing more.
    End,
}

/// The two directions of a client.
pub(crate) struct Client {
    /// Ends when the client is gone.
    pub heard: BoxStream<'static, Heard>,
    /// Fails when the client is gone.
    pub telling: Pin<Box<dyn Sink<Told, Error = io::Error> + Send>>,
}
