//! Port-forward through the socket, to real ones.
#![allow(clippy::unwrap_used, missing_docs)]

mod rig;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use berth_streaming::websocket::Opcode;
use rig::spdy::Spdy;
use rig::websocket::WebSocket;
use rig::{Rig, listen, nobody};

const V1: &str = "portforward.k8s.io";

/// Everything to the end of input, then it in reverse.
fn reverse() -> u16 {
    listen(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    })
}

#[tokio::test]
async fn many_connections_each_with_its_own_end() {
    let rig = Rig::new().await;
    let port = reverse();
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let mut pairs = Vec::new();
    for request in 0..20u32 {
        let (data, error) = client.pair(port, request).await;
        client.send(data, format!("abc{request}").as_bytes(), false).await;
        pairs.push((data, error, request));
    }
    // Half-closed in the opposite order: the answers come only then.
    for (data, ..) in pairs.iter().rev() {
        client.send(*data, b"", true).await;
    }
    client.until(|client| pairs.iter().all(|(data, error, _)| client.fin(*data) && client.fin(*error))).await;
    for (data, error, request) in pairs {
        let expected: String = format!("abc{request}").chars().rev().collect();
        assert_eq!((client.text(data), client.text(error)), (expected, String::new()));
    }
}

/// As many as a session may have; one more is refused, and they are as they were.
#[tokio::test]
async fn a_session_has_so_many_connections_and_no_more() {
    let rig = Rig::new().await;
    let port = reverse();
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let mut pairs = Vec::new();
    for request in 0..512u32 {
        pairs.push(client.pair(port, request).await);
    }
    let too_many =
        client.open(&[("streamtype", "error"), ("port", &port.to_string()), ("requestid", "512")]).await;
    client.until(|client| client.got.get(&too_many).is_some_and(|got| got.reset.is_some())).await;
    for (data, _) in [pairs[0], pairs[511]] {
        client.send(data, b"abc", true).await;
        client.until(|client| client.fin(data)).await;
        assert_eq!(client.text(data), "cba");
    }
}

/// Large frames take another way than small ones, and the order of both is kept; so is the end that comes with one.
#[tokio::test]
async fn large_frames_and_small_ones_keep_their_order() {
    let rig = Rig::new().await;
    let port = reverse();
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let (one, _) = client.pair(port, 0).await;
    let (two, _) = client.pair(port, 1).await;
    let mut sent = [Vec::new(), Vec::new()];
    let lengths = [100_000, 30_000, 20_000, 3, 17_000, 16_384, 16_383, 400_000, 0, 1, 70_000, 40_000];
    for round in 0..3 {
        for (number, length) in lengths.iter().enumerate() {
            let which = (round + number) % 2;
            let bytes: Vec<u8> = (0..*length).map(|n: usize| (n * 31 + number * 7 + round) as u8).collect();
            client.send([one, two][which], &bytes, false).await;
            sent[which].extend(bytes);
        }
        client.ping(round as u32).await;
    }
    for (id, sent) in [one, two].into_iter().zip(&mut sent) {
        let last = vec![id as u8; 90_000];
        client.send(id, &last, true).await;
        sent.extend(last);
        sent.reverse();
    }
    client.until(|client| client.fin(one) && client.fin(two) && client.pongs.len() == 3).await;
    assert!(client.got[&one].bytes == sent[0] && client.got[&two].bytes == sent[1], "bytes differ");
}

#[tokio::test]
async fn one_refused_connection_is_its_own_error() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let (before, _) = client.pair(reverse(), 0).await;
    let closed = nobody();
    let (data, error) = client.pair(closed, 1).await;
    client.until(|client| client.fin(error) && client.fin(data)).await;
    assert!(client.text(error).contains(&format!("connect to port {closed}")), "{}", client.text(error));
    client.send(before, b"still here", true).await;
    client.until(|client| client.fin(before)).await;
    assert_eq!(client.text(before), "ereh llits");
    let (after, _) = client.pair(reverse(), 2).await;
    client.send(after, b"xy", true).await;
    client.until(|client| client.fin(after)).await;
    assert_eq!(client.text(after), "yx");
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_session() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    // It reads nothing and closes: what was sent makes the kernel reset the connection.
    let port = listen(|stream| {
        let mut one = [0];
        stream.peek(&mut one).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let (data, error) = client.pair(port, 0).await;
    client.send(data, &[1; 1000], false).await;
    client.until(|client| client.fin(data)).await;
    client.reset(data).await;
    client.until(|client| client.fin(error)).await;
    assert_eq!(client.text(error), "", "a reset is no news for the client");
    let (data, _) = client.pair(reverse(), 1).await;
    client.send(data, b"ok", true).await;
    client.until(|client| client.fin(data)).await;
    assert_eq!(client.text(data), "ko");
}

#[tokio::test]
async fn odd_streams_are_refused_one_by_one() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let mut odd = Vec::new();
    for headers in [
        &[("streamtype", "data")][..],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "stdin"), ("port", "80")],
    ] {
        odd.push(client.open(headers).await);
    }
    client.until(|client| odd.iter().all(|id| client.got.contains_key(id))).await;
    assert!(odd.iter().all(|id| client.got[id].reset == Some(1)));
    // Without request ids: the error stream first, the other next.
    let port = reverse().to_string();
    let error = client.open(&[("streamtype", "error"), ("port", &port)]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port)]).await;
    client.send(data, b"old", true).await;
    client.until(|client| client.fin(data) && client.fin(error)).await;
    assert_eq!(client.text(data), "dlo");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_passes_intact() {
    const SIZE: usize = 24 << 20;
    let rig = Rig::new().await;
    let port = listen(|mut stream| {
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap();
        back.shutdown(Shutdown::Write).unwrap();
    });
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let (data, error) = client.pair(port, 0).await;
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at * 17 + at / 65_521) as u8).collect();
    let mut sent = 0;
    while !client.fin(error) {
        if sent < SIZE {
            let end = (sent + 50_000).min(SIZE);
            client.send(data, &pattern[sent..end], end == SIZE).await;
            sent = end;
        }
        if sent == SIZE || client.got.get(&data).is_none_or(|got| sent - got.bytes.len() > 100_000) {
            assert!(client.read().await);
        }
    }
    assert!(client.got[&data].bytes == pattern);
}

#[tokio::test]
async fn a_client_that_goes_closes_its_connections() {
    let rig = Rig::new().await;
    let (sender, receiver) = std::sync::mpsc::channel();
    let port = listen(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        sender.send(all).unwrap();
    });
    let mut client = Spdy::upgrade(&rig.forward(&[]), V1).await;
    let (data, _) = client.pair(port, 0).await;
    client.send(data, b"last words", false).await;
    rig::until("connected", || rig.world.connected.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    client.ping(1).await;
    client.until(|client| !client.pongs.is_empty()).await;
    drop(client);
    let got = tokio::task::spawn_blocking(move || receiver.recv_timeout(rig::LONG)).await.unwrap();
    assert_eq!(got.unwrap(), b"last words");
}

#[tokio::test]
async fn channels_have_a_pair_for_each_port() {
    let rig = Rig::new().await;
    let port = listen(|mut stream| {
        let mut four = [0; 4];
        stream.read_exact(&mut four).unwrap();
        stream.write_all(&four).unwrap();
    });
    let closed = nobody();
    let mut client = WebSocket::upgrade(&rig.forward(&[port, closed]), "v4.channel.k8s.io").await;
    client.send(0, b"ping").await;
    let length = |client: &WebSocket| client.got.get(&0).map_or(0, Vec::len);
    client.until(|client| length(client) >= 6 && client.text(3).contains("connect")).await;
    assert_eq!(client.got[&0][..2], port.to_le_bytes());
    assert_eq!(&client.got[&0][2..], b"ping");
    assert_eq!(client.got[&1], port.to_le_bytes());
    assert_eq!(client.got[&2], closed.to_le_bytes());
    let (_, answer, _) = rig::ask(
        &rig.forward(&[]),
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn spdy_goes_through_messages() {
    use berth_streaming::spdy::{Encoder, Headers, StreamId, data_head};
    let rig = Rig::new().await;
    let port = reverse().to_string();
    let mut client = WebSocket::upgrade(&rig.forward(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    for (id, kind) in [(1, "error"), (3, "data")] {
        let headers = [("streamtype", kind), ("port", &port), ("requestid", "0")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        bytes.extend(encoder.open(StreamId(id), &Headers(headers.into()), false));
    }
    bytes.extend(data_head(StreamId(3), 3, true));
    bytes.extend(b"abc");
    // Frames are cut anywhere.
    for piece in bytes.chunks(11) {
        client.raw(Opcode::Binary, piece).await;
    }
    let seen = |client: &WebSocket| client.messages.concat();
    client.until(|client| seen(client).windows(3).any(|three| three == b"cba")).await;
    let end = data_head(StreamId(1), 0, true);
    client.until(|client| seen(client).windows(8).any(|eight| eight == end)).await;
    client.leave().await;
    while client.read().await {}
    assert!(client.closed.is_some());
}
