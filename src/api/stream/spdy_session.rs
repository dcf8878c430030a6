//! Pure: a SPDY/3.1 session as the server of a client that opens all streams: which streams there
//! are, which of their halves are open, and what follows from a frame. It behaves as the reference
//! server's library (`moby/spdystream`): no windows, so that the connection itself is the only brake;
//! data for a stream that is gone is dropped without a word, for it may have been on its way when the
//! stream was given up; a GOAWAY ends the session at once.
//!
//! Differing from it on purpose: even numbers are refused, and so are streams past a bound.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::spdy_frame::{Cause, Farewell, Frame};
use super::spdy_header_block::Headers;

/// Open streams of one session; a forwarded connection has two. What a browser opens to one host is
/// six connections, what a load test of one's own opens through kubectl is a few hundred.
pub(crate) const MOST_STREAMS: usize = 1024;

/// Whether a stream with these headers may be opened.
pub(crate) type Admits = fn(&Headers) -> bool;

/// The session's streams.
#[derive(Debug)]
pub(crate) struct Session {
    admits: Admits,
    streams: BTreeMap<u32, Halves>,
    /// The highest number that the client used.
    last: u32,
}

/// What of a stream is open. One that has none of it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves {
    /// The client may still send.
    inbound: bool,
    /// We may still send.
    outbound: bool,
}

/// What is to be done about a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Send(Frame),
    /// A stream was opened, and answered.
    Opened {
        stream: u32,
        headers: Headers,
    },
    /// Bytes of an open stream, never none.
    Data {
        stream: u32,
        bytes: Bytes,
    },
    /// The client sends no more on this stream.
    Finished {
        stream: u32,
    },
    /// The client gave this stream up.
    Dropped {
        stream: u32,
    },
    /// The client gave the session up.
    Over,
}

impl Session {
    pub fn new(admits: Admits) -> Self {
        Self { admits, streams: BTreeMap::new(), last: 0 }
    }

    /// What follows from a frame that was read, in this order.
    pub fn receive(&mut self, frame: Frame) -> Vec<Effect> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers, .. } => {
                self.open(stream, Halves { inbound: !fin, outbound: !unidirectional }, headers)
            }
            Frame::Data { stream, fin, bytes } => {
                let open = self.streams.get(&stream).is_some_and(|halves| halves.inbound);
                let data = (open && !bytes.is_empty()).then_some(Effect::Data { stream, bytes });
                let finished = fin.then(|| self.finished(stream)).flatten();
                data.into_iter().chain(finished).collect()
            }
            Frame::Headers { stream, fin: true, .. } => self.finished(stream).into_iter().collect(),
            Frame::RstStream { stream, .. } => match self.streams.remove(&stream) {
                Some(_) => vec![Effect::Dropped { stream }],
                None => Vec::new(),
            },
            // The client's own pings are odd; we send none.
            Frame::Ping { id } if id % 2 == 1 => vec![Effect::Send(Frame::Ping { id })],
            Frame::GoAway { .. } => vec![Effect::Over],
            // We open no streams, have no settings, and nobody keeps to windows.
            Frame::SynReply { .. }
            | Frame::Headers { .. }
            | Frame::Ping { .. }
            | Frame::Settings { .. }
            | Frame::WindowUpdate { .. } => Vec::new(),
        }
    }

    /// We send no more on this stream: whether that is to be told, in a last data frame.
    pub fn finish(&mut self, stream: u32) -> bool {
        let Some(halves) = self.streams.get_mut(&stream) else { return false };
        let told = std::mem::replace(&mut halves.outbound, false);
        if !halves.inbound {
            self.streams.remove(&stream);
        }
        told
    }

    /// We give this stream up: what is to be told. One that we had finished is let run out in silence:
    /// the client would lose what it has not read yet.
    pub fn drop_stream(&mut self, stream: u32) -> Option<Frame> {
        let outbound = self.streams.get(&stream)?.outbound;
        if !outbound {
            return None;
        }
        self.streams.remove(&stream);
        Some(reset(stream, Cause::Cancel))
    }

    /// Whether we may send on this stream.
    pub fn may_send(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|halves| halves.outbound)
    }

    /// The session's last frame.
    pub fn farewell(&self, why: Farewell) -> Frame {
        Frame::GoAway { last_good: self.last, status: why as u32 }
    }

    fn open(&mut self, stream: u32, halves: Halves, headers: Headers) -> Vec<Effect> {
        let refused = |cause| vec![Effect::Send(reset(stream, cause))];
        if stream.is_multiple_of(2) || stream <= self.last {
            return refused(Cause::ProtocolError);
        }
        self.last = stream;
        if self.streams.len() >= MOST_STREAMS || !halves.outbound {
            return refused(Cause::RefusedStream);
        }
        if !(self.admits)(&headers) {
            return refused(Cause::Cancel);
        }
        self.streams.insert(stream, halves);
        let reply = Frame::SynReply { stream, fin: false, headers: Headers::default() };
        let mut effects = vec![Effect::Send(reply), Effect::Opened { stream, headers }];
        if !halves.inbound {
            effects.push(Effect::Finished { stream });
        }
        effects
    }

    fn finished(&mut self, stream: u32) -> Option<Effect> {
        let halves = self.streams.get_mut(&stream)?;
        let finished = std::mem::replace(&mut halves.inbound, false);
        if !halves.outbound {
            self.streams.remove(&stream);
        }
        finished.then_some(Effect::Finished { stream })
    }
}

fn reset(stream: u32, cause: Cause) -> Frame {
    Frame::RstStream { stream, status: cause as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn syn(stream: u32) -> Frame {
        Frame::SynStream {
            stream,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: Headers::default(),
        }
    }

    fn data(stream: u32, fin: bool, text: &'static str) -> Frame {
        Frame::Data { stream, fin, bytes: Bytes::from_static(text.as_bytes()) }
    }

    fn anything() -> Session {
        Session::new(|_| true)
    }

    fn opened(streams: &[u32]) -> Session {
        let mut session = anything();
        for stream in streams {
            let effects = session.receive(syn(*stream));
            assert!(matches!(
                effects[..],
                [Effect::Send(Frame::SynReply { .. }), Effect::Opened { .. }]
            ));
        }
        session
    }

    #[test]
    fn each_half_closes_by_itself() {
        let mut session = opened(&[1, 3]);
        let last = session.receive(data(1, true, "x"));
        let bytes = Bytes::from_static(b"x");
        assert_eq!(last, [Effect::Data { stream: 1, bytes }, Effect::Finished { stream: 1 }]);
        assert!(session.may_send(1), "the other half is open");
        assert_eq!(session.receive(data(1, true, "more")), []);
        assert!(session.finish(1) && !session.finish(1), "told once");
        assert!(session.finish(3));
        assert!(!session.may_send(3));
        let bytes = Bytes::from_static(b"y");
        assert_eq!(session.receive(data(3, false, "y")), [Effect::Data { stream: 3, bytes }]);
        assert_eq!(session.drop_stream(3), None, "what the client has not read yet is not lost");
        assert_eq!(session.receive(data(3, true, "")), [Effect::Finished { stream: 3 }]);
        assert!(session.streams.is_empty());
    }

    #[test]
    fn a_stream_that_is_given_up_is_gone() {
        let mut session = opened(&[1, 3]);
        let reset = Frame::RstStream { stream: 1, status: 5 };
        assert_eq!(session.receive(reset.clone()), [Effect::Dropped { stream: 1 }]);
        assert_eq!(session.receive(reset), []);
        assert_eq!(session.receive(data(1, false, "late")), []);
        assert_eq!(session.drop_stream(3), Some(Frame::RstStream { stream: 3, status: 5 }));
        assert_eq!(session.receive(data(3, true, "late")), []);
        assert!(session.streams.is_empty());
    }

    #[test]
    fn numbers_are_odd_and_rise() {
        let mut session = opened(&[5]);
        for wrong in [2, 3, 5] {
            let refused = Frame::RstStream { stream: wrong, status: 1 };
            assert_eq!(session.receive(syn(wrong)), [Effect::Send(refused)]);
        }
        let mut picky = Session::new(|headers| headers.get("port").is_some());
        let refused = Frame::RstStream { stream: 1, status: 5 };
        assert_eq!(picky.receive(syn(1)), [Effect::Send(refused)]);
        assert_eq!(session.farewell(Farewell::Well), Frame::GoAway { last_good: 5, status: 0 });
    }

    #[test]
    fn streams_are_bounded() {
        let mut session = anything();
        let most = u32::try_from(MOST_STREAMS).expect("small");
        for index in 0..most {
            assert_eq!(session.receive(syn(2 * index + 1)).len(), 2);
        }
        let next = 2 * most + 1;
        let refused = Effect::Send(Frame::RstStream { stream: next, status: 3 });
        assert_eq!(session.receive(syn(next)), [refused]);
        assert!(session.drop_stream(1).is_some());
        assert_eq!(session.receive(syn(next + 2)).len(), 2, "there is room again");
    }

    #[test]
    fn the_clients_pings_are_answered() {
        let mut session = anything();
        let answer = Effect::Send(Frame::Ping { id: 7 });
        assert_eq!(session.receive(Frame::Ping { id: 7 }), [answer]);
        assert_eq!(session.receive(Frame::Ping { id: 8 }), []);
        assert_eq!(session.receive(Frame::GoAway { last_good: 0, status: 0 }), [Effect::Over]);
    }

    proptest! {
        /// Against a dull oracle: a stream's data is told exactly while its inbound half is open, and
        /// its end once.
        #[test]
        fn halves_are_told_as_they_are(moves in proptest::collection::vec((0_u8..6, 0_u32..4), 0..60)) {
            let mut session = anything();
            let mut inbound = BTreeMap::<u32, bool>::new();
            let mut outbound = BTreeMap::<u32, bool>::new();
            let mut last = 0;
            for (step, which) in moves {
                let stream = 2 * which + 1;
                let open = inbound.get(&stream).copied().unwrap_or(false);
                let sends = outbound.get(&stream).copied().unwrap_or(false);
                match step {
                    0 => {
                        let effects = session.receive(syn(stream));
                        prop_assert_eq!(effects.len() == 2, stream > last);
                        if stream > last {
                            last = stream;
                            inbound.insert(stream, true);
                            outbound.insert(stream, true);
                        }
                    }
                    1 => prop_assert_eq!(session.receive(data(stream, false, "x")).len() == 1, open),
                    2 => {
                        let ended = session.receive(data(stream, true, ""));
                        prop_assert_eq!(ended == [Effect::Finished { stream }], open);
                        inbound.insert(stream, false);
                    }
                    3 => {
                        prop_assert_eq!(session.finish(stream), sends);
                        outbound.insert(stream, false);
                    }
                    4 => {
                        prop_assert_eq!(session.drop_stream(stream).is_some(), sends);
                        if sends {
                            inbound.insert(stream, false);
                            outbound.insert(stream, false);
                        }
                    }
                    _ => {
                        let told = session.receive(Frame::RstStream { stream, status: 5 });
                        prop_assert_eq!(told.len() == 1, open || sends);
                        inbound.insert(stream, false);
                        outbound.insert(stream, false);
                    }
                }
                let sends = outbound.get(&stream).copied().unwrap_or(false);
                prop_assert_eq!(session.may_send(stream), sends);
            }
        }
    }
}
