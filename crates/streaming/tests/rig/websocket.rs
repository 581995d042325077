use std::collections::HashMap;

use berth_streaming::websocket::{Decoder, Event, Opcode, Role, close, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{LONG, ask};

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

pub(crate) struct WebSocket {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    message: Vec<u8>,
    /// By the first byte of the messages.
    pub(crate) got: HashMap<u8, Vec<u8>>,
    /// Whole messages as they came.
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) closed: Option<(u16, String)>,
}

impl WebSocket {
    pub(crate) async fn upgrade(url: &str, protocol: &str) -> Self {
        let offer = match protocol {
            "" => String::new(),
            protocol => format!("Sec-WebSocket-Protocol: {protocol}\r\n"),
        };
        let headers = format!(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}"
        );
        let (stream, answer, rest) = ask(url, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        let mut client = Self {
            stream,
            decoder: Decoder::new(Role::Client),
            message: Vec::new(),
            got: HashMap::new(),
            messages: Vec::new(),
            closed: None,
        };
        client.take(rest);
        client
    }

    pub(crate) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let payload = [&[channel], bytes].concat();
        self.stream.write_all(&frame(Opcode::Binary, &payload, MASK)).await.unwrap();
    }

    pub(crate) async fn raw(&mut self, opcode: Opcode, bytes: &[u8]) {
        self.stream.write_all(&frame(opcode, bytes, MASK)).await.unwrap();
    }

    pub(crate) async fn leave(&mut self) {
        self.stream.write_all(&close(1000, "", MASK)).await.unwrap();
    }

    /// Reads once; false at the end of the connection.
    pub(crate) async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = tokio::time::timeout(LONG, self.stream.read(&mut buffer)).await;
        let length = read.expect("the server says something").unwrap_or(0);
        buffer.truncate(length);
        self.take(buffer);
        length > 0
    }

    fn take(&mut self, mut buffer: Vec<u8>) {
        let mut at = 0;
        while at < buffer.len() {
            let (taken, event) = self.decoder.decode(&mut buffer[at..]).unwrap();
            at += taken;
            match event {
                Some(Event::Message { bytes, last, .. }) => {
                    self.message.extend(bytes);
                    if last {
                        let message = std::mem::take(&mut self.message);
                        let (channel, bytes) = message.split_first().expect("a channel");
                        self.got.entry(*channel).or_default().extend(bytes);
                        self.messages.push(message);
                    }
                }
                Some(Event::Close { code, reason }) => {
                    self.closed = Some((code.unwrap_or_default(), reason));
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.read().await, "the connection ended: {:?}", self.got);
        }
    }

    pub(crate) fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.got.get(&channel).map_or(&[], |bytes| bytes)).into_owned()
    }
}
