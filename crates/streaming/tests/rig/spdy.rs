use std::collections::HashMap;

use berth_streaming::spdy::{Decoder, Encoder, Event, Headers, ResetStatus, StreamId, data_head};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{LONG, ask};

/// What came on one stream.
#[derive(Debug, Default, Clone)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fin: bool,
    pub(crate) replied: bool,
    pub(crate) reset: Option<u32>,
}

pub(crate) struct Spdy {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    next: u32,
    pub(crate) got: HashMap<u32, Got>,
    /// The server says that it goes.
    pub(crate) gone: bool,
    /// In the order in which they ended.
    pub(crate) ended: Vec<u32>,
    pub(crate) pongs: Vec<u32>,
}

impl Spdy {
    pub(crate) async fn upgrade(url: &str, version: &str) -> Self {
        let headers = format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {version}\r\n");
        let (stream, answer, rest) = ask(url, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(rest.is_empty());
        Self {
            stream,
            decoder: Decoder::new(),
            encoder: Encoder::default(),
            next: 1,
            got: HashMap::new(),
            gone: false,
            ended: Vec::new(),
            pongs: Vec::new(),
        }
    }

    /// Opens a stream; its number.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let frame = self.encoder.open(StreamId(id), &Headers(headers.collect()), false);
        self.stream.write_all(&frame).await.unwrap();
        id
    }

    /// The streams of exec: those named.
    pub(crate) async fn open_all(&mut self, kinds: &[&str]) -> Vec<u32> {
        let mut ids = Vec::new();
        for kind in kinds {
            ids.push(self.open(&[("streamtype", kind)]).await);
        }
        ids
    }

    pub(crate) async fn pair(&mut self, port: u16, request: u32) -> (u32, u32) {
        let (port, request) = (port.to_string(), request.to_string());
        let of = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
        let error = self.open(&of("error")).await;
        self.send(error, b"", true).await;
        (self.open(&of("data")).await, error)
    }

    pub(crate) async fn send(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.stream.write_all(&data_head(StreamId(id), bytes.len(), fin)).await.unwrap();
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn reset(&mut self, id: u32) {
        let frame = self.encoder.reset(StreamId(id), ResetStatus::Cancel);
        self.stream.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        let frame = self.encoder.ping(id);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Reads once; false at the end of the connection.
    pub(crate) async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = tokio::time::timeout(LONG, self.stream.read(&mut buffer)).await;
        let length = read.expect("the server says something").unwrap_or(0);
        let mut input = &buffer[..length];
        while !input.is_empty() {
            let (taken, event) = self.decoder.decode(input).unwrap();
            input = &input[taken..];
            match event {
                Some(Event::Data { stream, bytes, fin }) => {
                    let got = self.got.entry(stream.0).or_default();
                    assert!(!got.fin, "data after the end of stream {}", stream.0);
                    got.bytes.extend(bytes);
                    got.fin = fin;
                    if fin {
                        self.ended.push(stream.0);
                    }
                }
                Some(Event::Reply { stream, .. }) => self.got.entry(stream.0).or_default().replied = true,
                Some(Event::Reset { stream, status }) => {
                    self.got.entry(stream.0).or_default().reset = Some(status);
                }
                Some(Event::Ping { id }) => self.pongs.push(id),
                Some(Event::GoAway) => self.gone = true,
                Some(Event::Open { .. }) => panic!("a server opens no streams"),
                None => {}
            }
        }
        length > 0
    }

    pub(crate) async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.read().await, "the connection ended: {:?}", self.got);
        }
    }

    pub(crate) fn text(&self, id: u32) -> String {
        let bytes = self.got.get(&id).map(|got| got.bytes.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn fin(&self, id: u32) -> bool {
        self.got.get(&id).is_some_and(|got| got.fin)
    }
}
