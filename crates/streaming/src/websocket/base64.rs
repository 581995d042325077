//! The `base64.` subprotocols: each message is a channel's digit and base64 text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Error;

/// Reads one message's text in pieces; it keeps at most three characters.
#[derive(Debug, Default)]
pub struct Base64Decoder {
    kept: Vec<u8>,
    /// Its padding came: nothing may follow in this message.
    padded: bool,
}

impl Base64Decoder {
    /// The bytes that `text` completes. `last`: the message ends here.
    pub fn decode(&mut self, text: &[u8], last: bool) -> Result<Vec<u8>, Error> {
        self.kept.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let whole = self.kept.len() / 4 * 4;
        let rest = self.kept.split_off(whole);
        let ready = std::mem::replace(&mut self.kept, rest);
        let behind = (self.padded && !ready.is_empty())
            || ((self.padded || last || ready.ends_with(b"=")) && !self.kept.is_empty());
        if behind {
            return Err(Error::Base64);
        }
        self.padded = !last && (self.padded || ready.ends_with(b"="));
        STANDARD.decode(ready).map_err(|_| Error::Base64)
    }
}

/// The payload of a message on `channel`, 0 to 9.
pub fn encode_base64(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
    text.push(char::from(b'0' + channel % 10));
    STANDARD.encode_string(bytes, &mut text);
    text.into_bytes()
}
