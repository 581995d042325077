//! Standard input, read by a thread: a read that nobody answers must not keep the program from ending.

use std::io::{self, Read as _};

use tokio::sync::mpsc;

/// What goes to the other side.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Bytes(Vec<u8>),
    End,
    /// Columns, rows.
    Size(u16, u16),
    /// The person leaves, the program goes on.
    Detach,
}

/// Pieces that wait to be sent.
const WAITING: usize = 8;
const PIECE: usize = 32 * 1024;

/// Ctrl-P, Ctrl-Q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Where input comes from, and the end through which more can be said.
pub(crate) fn channel() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
    mpsc::channel(WAITING)
}

/// Reads standard input to its end. `keys`: a person types, and may detach.
pub(crate) fn read(send: mpsc::Sender<Input>, keys: bool) {
    std::thread::spawn(move || {
        let (mut buffer, mut watch) = (vec![0; PIECE], Keys::default());
        loop {
            let said = match io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => Input::End,
                Ok(length) if keys => match watch.look(&buffer[..length]) {
                    Some(bytes) => Input::Bytes(bytes),
                    None => Input::Detach,
                },
                Ok(length) => Input::Bytes(buffer[..length].to_vec()),
            };
            let last = matches!(said, Input::End | Input::Detach);
            if send.blocking_send(said).is_err() || last {
                return;
            }
        }
    });
}

/// Looks for the keys that detach.
#[derive(Debug, Default)]
struct Keys {
    /// The first of them was typed, and is kept back.
    first: bool,
}

impl Keys {
    /// What to pass on; `None` to detach.
    fn look(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut on = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            if std::mem::take(&mut self.first) {
                if byte == DETACH[1] {
                    return None;
                }
                on.push(DETACH[0]);
            }
            if byte == DETACH[0] {
                self.first = true;
            } else {
                on.push(byte);
            }
        }
        Some(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_to_detach() {
        let look = |pieces: &[&[u8]]| {
            let mut keys = Keys::default();
            let mut all = Vec::new();
            for piece in pieces {
                all.extend(keys.look(piece)?);
            }
            Some(all)
        };
        assert_eq!(look(&[b"abc"]), Some(b"abc".to_vec()));
        assert_eq!(look(&[b"a\x10", b"\x11"]), None);
        assert_eq!(look(&[b"a\x10\x11b"]), None);
        assert_eq!(look(&[b"\x10\x10x"]), Some(b"\x10\x10x".to_vec()));
        assert_eq!(look(&[b"\x11"]), Some(b"\x11".to_vec()));
    }
}
