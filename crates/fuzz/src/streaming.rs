//! What the client of a stream sends.

use berth_streaming::fuzz::{self, Told};
use berth_streaming::spdy::{self, Encoder, Headers, StreamId};
use berth_streaming::websocket::{self, Base64Decoder, Role};

use crate::pieces::cut;

#[derive(Debug, PartialEq)]
enum Said {
    Data(u32, Vec<u8>, bool),
    Other(String),
}

/// Joins the parts of one stream's data: how they are cut is not the peer's word.
fn join(said: &mut Vec<Said>, stream: u32, bytes: &[u8], fin: bool) {
    if let Some(Said::Data(last, data, end @ false)) = said.last_mut()
        && *last == stream
    {
        data.extend(bytes);
        *end = fin;
    } else {
        said.push(Said::Data(stream, bytes.to_vec(), fin));
    }
}

fn spdy(bytes: &[u8], step: usize) -> (Vec<Said>, Option<spdy::Error>) {
    let mut decoder = spdy::Decoder::new();
    let mut said = Vec::new();
    for mut piece in bytes.chunks(step) {
        loop {
            let (taken, event) = match decoder.decode(piece) {
                Ok(decoded) => decoded,
                Err(error) => return (said, Some(error)),
            };
            piece = piece.get(taken..).expect("no more is taken than there is");
            match event {
                None => break,
                Some(spdy::Event::Data { stream, bytes, fin }) => join(&mut said, stream.0, bytes, fin),
                Some(other) => said.push(Said::Other(format!("{other:?}"))),
            }
        }
        assert!(piece.is_empty(), "without an event everything is taken");
    }
    (said, None)
}

/// Frames mean the same in whatever pieces they come.
pub(crate) fn spdy_frames(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    let whole = spdy(bytes, usize::MAX);
    assert_eq!(spdy(bytes, step), whole);
    // Also where large frames go past the decoder: here large is what has three bytes. Each piece costs some system calls.
    if bytes.len() / step > 64 {
        return;
    }
    let (told, error) = fuzz::caught(bytes, step, 3);
    let mut said = Vec::new();
    for one in told {
        match one {
            Told::Data { channel, bytes, fin } => join(&mut said, channel, &bytes, fin),
            Told::Other(text) => said.push(Said::Other(text)),
        }
    }
    assert_eq!((said, error), (whole.0, whole.1.map(|error| error.to_string())));
}

/// A header block is refused, or what it says can be said again.
pub(crate) fn spdy_headers(block: &[u8]) {
    let read = fuzz::header_block(block);
    if let Ok(headers) = &read {
        assert!(headers.0.len() <= spdy::HEADERS_MAX);
        let mut encoder = Encoder::default();
        let frame = encoder.open(StreamId(1), headers, false);
        if frame.len() <= spdy::CONTROL_MAX && block.len() <= spdy::BLOCK_MAX {
            let (said, error) = spdy(&frame, 7);
            let told = format!(
                "{:?}",
                spdy::Event::Open { stream: StreamId(1), headers: lower(headers), fin: false }
            );
            assert_eq!((said, error), (vec![Said::Other(told)], None));
        }
    }
    // The same block as a client sends it, within zlib.
    let framed = spdy(&fuzz::syn_stream(block), 64).1;
    if block.len() < spdy::BLOCK_MAX && block.len() < spdy::CONTROL_MAX - 64 {
        assert_eq!(framed, read.err());
    }
}

/// Lower case of a lower-case letter can differ once more (some letters become two).
fn lower(headers: &Headers) -> Headers {
    Headers(headers.0.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect())
}

fn websocket(bytes: &[u8], role: Role, step: usize) -> (Vec<Said>, Option<websocket::Error>) {
    let mut decoder = websocket::Decoder::new(role);
    let (mut said, mut within) = (Vec::new(), false);
    for piece in bytes.chunks(step) {
        let (mut piece, mut at) = (piece.to_vec(), 0);
        loop {
            let rest = piece.get_mut(at..).expect("no more is taken than there is");
            let (taken, event) = match decoder.decode(rest) {
                Ok(decoded) => decoded,
                Err(error) => return (said, Some(error)),
            };
            at += taken;
            match event {
                None => break,
                Some(websocket::Event::Message { bytes, first, last }) => {
                    assert_eq!(first, !within, "a message begins once");
                    within = !last;
                    join(&mut said, 0, bytes, last);
                }
                Some(other) => {
                    if let websocket::Event::Ping(payload) = &other {
                        assert!(payload.len() <= websocket::CONTROL_MAX);
                    }
                    said.push(Said::Other(format!("{other:?}")));
                }
            }
        }
        assert_eq!(at, piece.len(), "without an event everything is taken");
    }
    (said, None)
}

/// Frames mean the same in whatever pieces they come, masked or not.
pub(crate) fn websocket_frames(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    for role in [Role::Server, Role::Client] {
        assert_eq!(websocket(bytes, role, step), websocket(bytes, role, usize::MAX));
    }
}

/// Channels of the four WebSocket subprotocols: the first byte says which.
pub(crate) fn channels(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let Some((step, bytes)) = cut(rest) else { return };
    let (base64, close) = (kind & 1 != 0, kind & 2 != 0);
    let (whole, pieces) = (told(bytes, usize::MAX, base64, close), told(bytes, step, base64, close));
    assert_eq!(pieces.1, whole.1, "an error is one in any pieces");
    if base64 && whole.1 {
        let (more, less) =
            if pieces.0.len() >= whole.0.len() { (pieces.0, whole.0) } else { (whole.0, pieces.0) };
        assert!(begins(&more, &less), "{less:?} is not the beginning of {more:?}");
    } else {
        assert_eq!(pieces.0, whole.0);
    }
    // The decoder alone: any text, and what was written by us.
    let mut decoder = Base64Decoder::default();
    for piece in bytes.chunks(step) {
        if let Ok(decoded) = decoder.decode(piece, false) {
            assert!(decoded.len() <= step + 3);
        }
    }
    let text = websocket::encode_base64(*kind, bytes);
    let back = Base64Decoder::default().decode(text.get(1..).unwrap_or_default(), true);
    assert_eq!(back.as_deref(), Ok(bytes));
}

/// What was said, and whether it ended in an error.
fn told(bytes: &[u8], step: usize, base64: bool, close: bool) -> (Vec<Said>, bool) {
    let (all, ended) = fuzz::channels(bytes, step, base64, close);
    let mut said = Vec::new();
    for one in all {
        match one {
            Told::Data { bytes, fin: false, .. } if bytes.is_empty() => {}
            Told::Data { channel, bytes, fin } => join(&mut said, channel, &bytes, fin),
            Told::Other(text) => said.push(Said::Other(text)),
        }
    }
    (said, ended)
}

/// Of base64 that breaks, a part is told before the error if it came in pieces, and none if it came whole.
fn begins(more: &[Said], less: &[Said]) -> bool {
    more.iter().zip(less).all(|pair| match pair {
        (Said::Data(a, more, _), Said::Data(b, less, _)) => {
            a == b && (more.starts_with(less) || less.starts_with(more))
        }
        (a, b) => a == b,
    })
}

/// A request's head in pieces is the same request, and its answer is one.
pub(crate) fn http_head(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    let whole = fuzz::request(bytes, usize::MAX);
    assert_eq!(fuzz::request(bytes, step), whole);
    if let Some((path, answers)) = whole {
        assert!(!path.contains(['?', '#', '\r', '\n']), "{path}");
        for answer in answers {
            assert!(!answer.contains(['\r', '\n']), "a header of the answer is split: {answer}");
        }
    }
}

/// A whole session with any client: it ends when the client does, and what it wrote can be read.
pub(crate) fn sessions(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let Some((step, bytes)) = cut(rest) else { return };
    let (written, is_spdy) = fuzz::session(*kind, bytes, step);
    let error = match is_spdy {
        true => spdy(&written, usize::MAX).1.map(|error| error.to_string()),
        false => websocket(&written, Role::Client, usize::MAX).1.map(|error| error.to_string()),
    };
    assert_eq!(error, None, "what the server wrote");
}

/// Sizes of a terminal in any pieces.
pub(crate) fn sizes(input: &[u8]) {
    let Some((step, bytes)) = cut(input) else { return };
    let (newest, kept) = fuzz::sizes(bytes, step);
    assert!(kept <= fuzz::SIZE_KEPT_MAX + step, "{kept} bytes wait for the rest of a size");
    if let Some((columns, rows)) = newest {
        assert!(columns > 0 && rows > 0);
    }
}
