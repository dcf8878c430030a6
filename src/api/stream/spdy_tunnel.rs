//! A SPDY session in the messages of a WebSocket, as kubectl speaks it from 1.31 on
//! (`client-go/tools/portforward/tunneling_connection.go`): the session's bytes are the binary
//! messages one after the other, however they are cut, and it ends with a normal close.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::api::stream::spdy_connection::{Reads, Writes};
use crate::api::stream::websocket::Socket;

/// The session's bytes in the socket.
pub(crate) fn tunnelled(socket: Socket) -> (SplitStream<Socket>, SplitSink<Socket, Message>) {
    let (writes, reads) = socket.split();
    (reads, writes)
}

impl Reads for SplitStream<Socket> {
    async fn read(&mut self) -> io::Result<Bytes> {
        loop {
            match self.next().await {
                // An empty message is no end.
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {}
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                None | Some(Ok(Message::Close(_))) => return Ok(Bytes::new()),
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Err(io::Error::new(ErrorKind::InvalidData, "a message of text"));
                }
                Some(Err(failure)) => return Err(broken(failure)),
            }
        }
    }
}

impl Writes for SplitSink<Socket, Message> {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.send(Message::Binary(bytes)).await.map_err(broken)
    }

    async fn close(&mut self) -> io::Result<()> {
        // client-go takes any other code, and none, for a failure.
        let (code, reason) = (CloseCode::Normal, Default::default());
        let close = Message::Close(Some(CloseFrame { code, reason }));
        self.send(close).await.map_err(broken)
    }
}

fn broken(failure: Error) -> io::Error {
    match failure {
        Error::Io(failure) => failure,
        other => io::Error::new(ErrorKind::InvalidData, other),
    }
}
