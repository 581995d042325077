use super::{CONTROL_MAX, Error, Opcode, Role};

/// One thing the peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A part of a message, as it came in, unmasked.
    Message {
        bytes: &'a [u8],
        /// It begins the message.
        first: bool,
        /// It ends the message; `bytes` may be empty.
        last: bool,
    },
    Ping(Vec<u8>),
    Pong,
    Close {
        code: Option<u16>,
        reason: String,
    },
}

#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    fin: bool,
    mask: Option<[u8; 4]>,
    length: u64,
    done: u64,
}

/// Reads a peer's bytes in whatever pieces they come. It holds one control frame at most; messages pass through.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    frame: Option<Frame>,
    /// Of a head or a control frame's payload, while it is incomplete.
    kept: Vec<u8>,
    /// A message has begun and not ended.
    within: bool,
    /// Nothing of the message has been told yet.
    fresh: bool,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}/{})", self.opcode, self.done, self.length)
    }
}

enum Found {
    Part { from: usize, to: usize, first: bool, last: bool },
    Control(Event<'static>),
    Nothing,
}

impl Decoder {
    /// `role`: of the one who reads.
    pub fn new(role: Role) -> Self {
        Self { role, frame: None, kept: Vec::new(), within: false, fresh: false }
    }

    /// Takes from the front of `input`, which it unmasks in place; says how much, and what it came to. Without an event
    /// all of it was taken.
    pub fn decode<'a>(&mut self, input: &'a mut [u8]) -> Result<(usize, Option<Event<'a>>), Error> {
        let mut at = 0;
        let found = loop {
            match self.frame {
                None => match self.head(input, &mut at)? {
                    Some(frame) => self.frame = Some(frame),
                    None => break Found::Nothing,
                },
                Some(frame) if frame.opcode >= Opcode::Close as u8 => {
                    if !self.gather(input, &mut at, frame.length as usize) {
                        break Found::Nothing;
                    }
                    let mut payload = std::mem::take(&mut self.kept);
                    unmask(&mut payload, frame.mask, 0);
                    self.frame = None;
                    break Found::Control(control(frame.opcode, payload)?);
                }
                Some(mut frame) => {
                    let left = frame.length - frame.done;
                    let room = input.len() - at;
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(room);
                    let (from, to) = (at, at + length);
                    at = to;
                    unmask(input.get_mut(from..to).unwrap_or_default(), frame.mask, frame.done);
                    frame.done += length as u64;
                    let ended = frame.done == frame.length;
                    self.frame = (!ended).then_some(frame);
                    let last = ended && frame.fin;
                    if last {
                        self.within = false;
                    }
                    if length > 0 || last {
                        let first = std::mem::take(&mut self.fresh);
                        break Found::Part { from, to, first, last };
                    }
                    if !ended {
                        break Found::Nothing;
                    }
                }
            }
        };
        Ok(match found {
            Found::Nothing => (at, None),
            Found::Control(event) => (at, Some(event)),
            Found::Part { from, to, first, last } => {
                let bytes = input.get(from..to).unwrap_or_default();
                (at, Some(Event::Message { bytes, first, last }))
            }
        })
    }

    /// Keeps bytes until there are `wanted`.
    fn gather(&mut self, input: &[u8], at: &mut usize, wanted: usize) -> bool {
        let rest = input.get(*at..).unwrap_or_default();
        let taken = wanted.saturating_sub(self.kept.len()).min(rest.len());
        self.kept.extend(rest.iter().take(taken));
        *at += taken;
        self.kept.len() >= wanted
    }

    fn head(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Frame>, Error> {
        if !self.gather(input, at, 2) {
            return Ok(None);
        }
        let [one, two] = *self.kept.first_chunk::<2>().ok_or(Error::Length)?;
        let masked = two & 0x80 != 0;
        if masked != (self.role == Role::Server) {
            return Err(Error::Mask);
        }
        let long = match two & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.gather(input, at, 2 + long + if masked { 4 } else { 0 }) {
            return Ok(None);
        }
        let head = std::mem::take(&mut self.kept);
        let (length, mask) = head.get(2..).unwrap_or_default().split_at(long);
        let length = match long {
            0 => u64::from(two & 0x7f),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let (fin, opcode) = (one & 0x80 != 0, one & 0x0f);
        if one & 0x70 != 0 {
            return Err(Error::Reserved);
        }
        if length >> 63 != 0 {
            return Err(Error::Length);
        }
        match opcode {
            0 if !self.within => return Err(Error::Continuation),
            1 | 2 if self.within => return Err(Error::Continuation),
            0 => {}
            1 | 2 => (self.within, self.fresh) = (true, true),
            8..=10 if !fin || length > CONTROL_MAX as u64 => return Err(Error::Control),
            8..=10 => {}
            other => return Err(Error::Opcode(other)),
        }
        Ok(Some(Frame { opcode, fin, mask: mask.first_chunk::<4>().copied(), length, done: 0 }))
    }
}

/// XORs `bytes`, which are `from` bytes into their frame.
fn unmask(bytes: &mut [u8], mask: Option<[u8; 4]>, from: u64) {
    let Some(mut mask) = mask else { return };
    mask.rotate_left((from % 4) as usize);
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap_or_default());
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let value = u64::from_ne_bytes((&*word).try_into().unwrap_or_default()) ^ wide;
        word.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

fn control(opcode: u8, payload: Vec<u8>) -> Result<Event<'static>, Error> {
    Ok(match opcode {
        9 => Event::Ping(payload),
        10 => Event::Pong,
        _ => match payload.split_first_chunk::<2>() {
            Some((code, reason)) => Event::Close {
                code: Some(u16::from_be_bytes(*code)),
                reason: String::from_utf8_lossy(reason).into_owned(),
            },
            None if payload.is_empty() => Event::Close { code: None, reason: String::new() },
            None => return Err(Error::Close),
        },
    })
}
