use std::fmt;

use super::headers::Inflater;
use super::{CONTROL_MAX, Error, FLAG_FIN, HEAD, Headers, StreamId, VERSION, kind};

/// One thing the peer said. Frames that change nothing here (settings, windows, trailing headers) are not told.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Open {
        stream: StreamId,
        headers: Headers,
        /// The opener sends nothing on it.
        fin: bool,
    },
    Reply {
        stream: StreamId,
        headers: Headers,
        fin: bool,
    },
    /// A part of a data frame, as it came in.
    Data {
        stream: StreamId,
        bytes: &'a [u8],
        /// Nothing follows on this stream.
        fin: bool,
    },
    Reset {
        stream: StreamId,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

enum State {
    Head,
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: StreamId, fin: bool, left: usize },
}

/// Reads a peer's bytes in whatever pieces they come. It holds one control frame at most; data passes through.
pub struct Decoder {
    state: State,
    /// Of a head or a control frame's payload, while it is incomplete.
    kept: Vec<u8>,
    inflater: Option<Inflater>,
    deaf: bool,
    /// Length of the data frame that came last, 0 after another.
    last: usize,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    pub fn new() -> Self {
        Self { state: State::Head, kept: Vec::new(), inflater: None, deaf: false, last: 0 }
    }

    /// No stream will be opened any more: header blocks are skipped from now on, and the 40 KiB that inflating takes
    /// are given back. A stream that is opened all the same is told without headers.
    pub fn skip_headers(&mut self) {
        self.deaf = true;
        self.inflater = None;
    }

    /// Stream and missing bytes of the data frame that is coming in.
    pub fn coming(&self) -> Option<(StreamId, usize)> {
        match self.state {
            State::Data { stream, left, .. } if left > 0 => Some((stream, left)),
            _ => None,
        }
    }

    /// So many bytes of that frame were taken elsewhere; whether the stream ended with them.
    pub fn skip(&mut self, length: usize) -> bool {
        let State::Data { stream, fin, left } = self.state else { return false };
        let left = left.saturating_sub(length);
        self.state = match left {
            0 => State::Head,
            _ => State::Data { stream, fin, left },
        };
        fin && left == 0
    }

    /// Of the data frame that came last, if nothing of what follows it came yet.
    pub fn between(&self) -> Option<usize> {
        (matches!(self.state, State::Head) && self.kept.is_empty()).then_some(self.last)
    }

    /// Goes on with a data frame of `least` bytes or more, of this stream if one is named, if `head` begins one; else nothing
    /// happened.
    pub fn go_on(&mut self, head: [u8; HEAD], of: Option<StreamId>, least: usize) -> bool {
        let (first, second) = (word(&head, 0), word(&head, 4));
        let length = (second & 0x00ff_ffff) as usize;
        let named = first >> 31 == 0 && first != 0 && of.is_none_or(|stream| stream.0 == first);
        let goes_on = self.between().is_some() && named && length >= least.max(1);
        if goes_on {
            let fin = (second >> 24) as u8 & FLAG_FIN != 0;
            self.state = State::Data { stream: StreamId(first), fin, left: length };
            self.last = length;
        }
        goes_on
    }

    /// Takes from the front of `input`; says how much, and what it came to. Without an event all of it was taken.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Error> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            match self.state {
                State::Head => {
                    let Some(taken) = self.gather(rest, HEAD) else { return Ok((input.len(), None)) };
                    at += taken;
                    self.head()?;
                }
                State::Control { kind, flags, length } => {
                    let Some(taken) = self.gather(rest, length) else { return Ok((input.len(), None)) };
                    at += taken;
                    let payload = std::mem::take(&mut self.kept);
                    self.state = State::Head;
                    if let Some(event) = self.control(kind, flags, &payload)? {
                        return Ok((at, Some(event)));
                    }
                }
                State::Data { stream, fin, left } => {
                    let length = left.min(rest.len());
                    let left = left - length;
                    self.state = match left {
                        0 => State::Head,
                        _ => State::Data { stream, fin, left },
                    };
                    let fin = fin && left == 0;
                    let bytes = rest.get(..length).unwrap_or_default();
                    at += length;
                    if length > 0 || fin {
                        return Ok((at, Some(Event::Data { stream, bytes, fin })));
                    }
                    if left > 0 {
                        return Ok((at, None));
                    }
                }
            }
        }
    }

    /// Keeps bytes until there are `wanted`; how many were taken when there are.
    fn gather(&mut self, input: &[u8], wanted: usize) -> Option<usize> {
        let taken = wanted.saturating_sub(self.kept.len()).min(input.len());
        self.kept.extend(input.iter().take(taken));
        (self.kept.len() == wanted).then_some(taken)
    }

    fn head(&mut self) -> Result<(), Error> {
        let head = std::mem::take(&mut self.kept);
        let first = word(&head, 0);
        let second = word(&head, 4);
        let flags = (second >> 24) as u8;
        let length = (second & 0x00ff_ffff) as usize;
        if first >> 31 == 0 {
            if first == 0 {
                return Err(Error::StreamZero);
            }
            let fin = flags & FLAG_FIN != 0;
            self.state = State::Data { stream: StreamId(first), fin, left: length };
            self.last = length;
            return Ok(());
        }
        self.last = 0;
        let version = (first >> 16 & 0x7fff) as u16;
        let kind = (first & 0xffff) as u16;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let holds = match kind {
            kind::SYN_STREAM => (10..=CONTROL_MAX).contains(&length),
            kind::SYN_REPLY | kind::HEADERS | kind::SETTINGS => (4..=CONTROL_MAX).contains(&length),
            kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => length == 8,
            kind::PING => length == 4,
            _ => return Err(Error::Kind(kind)),
        };
        if !holds {
            return Err(Error::Length { kind, length });
        }
        self.state = State::Control { kind, flags, length };
        Ok(())
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Event<'static>>, Error> {
        let first = word(payload, 0) & 0x7fff_ffff;
        let stream = StreamId(first);
        let fin = flags & FLAG_FIN != 0;
        let names_stream = !matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY | kind::WINDOW_UPDATE);
        if names_stream && first == 0 {
            return Err(Error::StreamZero);
        }
        Ok(match kind {
            kind::SYN_STREAM => Some(Event::Open { stream, headers: self.headers(payload, 10)?, fin }),
            kind::SYN_REPLY => Some(Event::Reply { stream, headers: self.headers(payload, 4)?, fin }),
            // Read for the sake of the zlib stream alone.
            kind::HEADERS => {
                self.headers(payload, 4)?;
                fin.then_some(Event::Data { stream, bytes: &[], fin })
            }
            kind::RST_STREAM => Some(Event::Reset { stream, status: word(payload, 4) }),
            kind::PING => Some(Event::Ping { id: word(payload, 0) }),
            kind::GOAWAY => Some(Event::GoAway),
            _ => None,
        })
    }

    fn headers(&mut self, payload: &[u8], from: usize) -> Result<Headers, Error> {
        if self.deaf {
            return Ok(Headers::default());
        }
        let inflater = self.inflater.get_or_insert_with(Inflater::new);
        Headers::parse(&inflater.block(payload.get(from..).unwrap_or_default())?)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
