use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ended;
use super::catch::Catcher;
use crate::pipe::Pipe;
use crate::pool::Buffer;
use crate::spdy::{self, Headers, StreamId};
use crate::transport::{Reader, Socket, read_some};
use crate::websocket::{self, Base64Decoder, CLOSE_SIGNAL, Role};

/// One thing a client said, whatever it speaks. Channels are SPDY's streams or the first bytes of messages.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    /// A stream of SPDY.
    Open {
        channel: u32,
        headers: Headers,
        fin: bool,
    },
    Data {
        channel: u32,
        bytes: Cow<'a, [u8]>,
        fin: bool,
    },
    /// The same as data, and the bytes are in the kernel still.
    Piped {
        channel: u32,
        pipe: Pipe,
        fin: bool,
    },
    Reset {
        channel: u32,
    },
    /// To be answered with [`super::Outlet::pong`].
    Ping(Vec<u8>),
    /// It ends the connection in order.
    Leave,
    /// Nothing that concerns us.
    Nothing,
}

enum Form {
    Spdy(spdy::Decoder),
    Channels(Channels),
    /// Messages without channels, whose bytes are told as channel 0.
    Messages(websocket::Decoder),
}

struct Channels {
    decoder: websocket::Decoder,
    /// v5: channels can be closed.
    close: bool,
    base64: Option<Base64Decoder>,
    message: Coming,
}

/// The message that is coming in.
#[derive(Default)]
struct Coming {
    channel: Option<u8>,
    /// It closed a channel, and says no more.
    closed: bool,
}

/// The reading end of a connection.
pub(crate) struct Source {
    reader: Reader,
    form: Form,
    /// What was read and not yet decoded; no buffer is held while nothing comes.
    buffer: Option<Buffer>,
    at: usize,
    end: usize,
    catcher: Option<Catcher>,
    /// Told before what is in the buffer.
    piped: Option<(StreamId, Pipe, bool)>,
    activity: Arc<AtomicU64>,
}

impl Source {
    /// `first`: bytes that came with the request's head.
    fn new(reader: Reader, form: Form, first: &[u8], activity: Arc<AtomicU64>) -> Self {
        let mut source =
            Self { reader, form, buffer: None, at: 0, end: 0, catcher: None, piped: None, activity };
        source.keep(first);
        source
    }

    /// To be decoded next, before anything else is read.
    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut buffer = Buffer::take();
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = *from;
        }
        (self.at, self.end) = (0, bytes.len().min(buffer.len()));
        self.buffer = Some(buffer);
    }

    pub(crate) fn spdy(reader: Reader, first: &[u8], activity: Arc<AtomicU64>) -> Self {
        Self::new(reader, Form::Spdy(spdy::Decoder::new()), first, activity)
    }

    /// The reader is this socket and nothing else: large frames of SPDY need not come through here.
    pub(crate) fn over(self, plain: Option<Socket>) -> Self {
        Self { catcher: plain.map(Catcher::new), ..self }
    }

    pub(crate) fn channels(
        reader: Reader,
        first: &[u8],
        activity: Arc<AtomicU64>,
        base64: bool,
        close: bool,
    ) -> Self {
        let decoder = websocket::Decoder::new(Role::Server);
        let base64 = base64.then(Base64Decoder::default);
        Self::new(
            reader,
            Form::Channels(Channels { decoder, close, base64, message: Coming::default() }),
            first,
            activity,
        )
    }

    pub(super) fn messages(reader: Reader, first: &[u8], activity: Arc<AtomicU64>) -> Self {
        Self::new(reader, Form::Messages(websocket::Decoder::new(Role::Server)), first, activity)
    }

    /// No stream will be opened any more (see [`spdy::Decoder::skip_headers`]).
    pub(super) fn skip_headers(&mut self) {
        if let Form::Spdy(decoder) = &mut self.form {
            decoder.skip_headers();
        }
    }

    /// Waits until [`Source::said`] has something to work on. Nothing is lost when it is dropped.
    pub(crate) async fn fill(&mut self) -> Result<(), Ended> {
        if self.at < self.end || self.piped.is_some() {
            return Ok(());
        }
        if let (Form::Spdy(decoder), Some(catcher)) = (&mut self.form, &mut self.catcher)
            && let Some(caught) = catcher.fill(decoder).await.map_err(Ended::Read)?
        {
            self.activity.fetch_add(1, Ordering::Relaxed);
            self.piped = caught.piped;
            self.keep(&caught.rest);
            return Ok(());
        }
        let (buffer, length) = read_some(&mut self.reader, 0).await.map_err(Ended::Read)?;
        if length == 0 {
            return Err(Ended::Gone);
        }
        self.activity.fetch_add(1, Ordering::Relaxed);
        (self.buffer, self.at, self.end) = (Some(buffer), 0, length);
        Ok(())
    }

    /// The next of what was read; `None` when all of it was told.
    pub(crate) fn said(&mut self) -> Result<Option<Said<'_>>, Ended> {
        if let Some((StreamId(channel), pipe, fin)) = self.piped.take() {
            return Ok(Some(Said::Piped { channel, pipe, fin }));
        }
        let Self { form, buffer, at, end, .. } = self;
        if at >= end {
            *buffer = None;
            return Ok(None);
        }
        let input = buffer.as_deref_mut().and_then(|bytes| bytes.get_mut(*at..*end));
        let Some(input) = input else { return Ok(None) };
        let (taken, said) = match form {
            Form::Spdy(decoder) => {
                let (taken, event) = decoder.decode(input)?;
                (taken, event.map_or(Said::Nothing, from_spdy))
            }
            Form::Channels(channels) => {
                let (taken, event) = channels.decoder.decode(input)?;
                let said = match event {
                    Some(websocket::Event::Message { bytes, first, last }) => message(
                        &mut channels.message,
                        channels.base64.as_mut(),
                        channels.close,
                        (bytes, first, last),
                    )?,
                    other => from_websocket(other),
                };
                (taken, said)
            }
            Form::Messages(decoder) => {
                let (taken, event) = decoder.decode(input)?;
                (taken, from_websocket(event))
            }
        };
        *at += taken;
        Ok(Some(said))
    }
}

fn from_spdy(event: spdy::Event<'_>) -> Said<'_> {
    match event {
        spdy::Event::Open { stream: StreamId(channel), headers, fin } => Said::Open { channel, headers, fin },
        spdy::Event::Data { stream: StreamId(channel), bytes, fin } => {
            Said::Data { channel, bytes: Cow::Borrowed(bytes), fin }
        }
        spdy::Event::Reset { stream: StreamId(channel), .. } => Said::Reset { channel },
        spdy::Event::Ping { id } => Said::Ping(id.to_be_bytes().to_vec()),
        spdy::Event::GoAway => Said::Leave,
        spdy::Event::Reply { .. } => Said::Nothing,
    }
}

fn from_websocket(event: Option<websocket::Event<'_>>) -> Said<'_> {
    match event {
        Some(websocket::Event::Message { bytes, .. }) => {
            Said::Data { channel: 0, bytes: Cow::Borrowed(bytes), fin: false }
        }
        Some(websocket::Event::Ping(payload)) => Said::Ping(payload),
        Some(websocket::Event::Close { .. }) => Said::Leave,
        Some(websocket::Event::Pong) | None => Said::Nothing,
    }
}

/// A part of a message: `(bytes, first, last)`.
fn message<'a>(
    message: &mut Coming,
    base64: Option<&mut Base64Decoder>,
    close: bool,
    (mut bytes, first, last): (&'a [u8], bool, bool),
) -> Result<Said<'a>, Ended> {
    if first {
        *message = Coming::default();
    }
    if message.channel.is_none() {
        let Some((number, rest)) = bytes.split_first() else { return Ok(Said::Nothing) };
        message.channel = Some(if base64.is_some() { number.wrapping_sub(b'0') } else { *number });
        bytes = rest;
    }
    let number = message.channel.unwrap_or_default();
    if close && number == CLOSE_SIGNAL {
        return Ok(match bytes.first() {
            Some(closed) if !std::mem::replace(&mut message.closed, true) => {
                Said::Data { channel: u32::from(*closed), bytes: Cow::Borrowed(&[]), fin: true }
            }
            _ => Said::Nothing,
        });
    }
    let bytes = match base64 {
        None => Cow::Borrowed(bytes),
        Some(decoder) => Cow::Owned(decoder.decode(bytes, last)?),
    };
    Ok(Said::Data { channel: u32::from(number), bytes, fin: false })
}
