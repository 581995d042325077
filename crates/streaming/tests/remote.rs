//! Exec and attach through the socket, over real processes.
#![allow(clippy::unwrap_used, missing_docs)]

mod rig;

use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_streaming::websocket::{Opcode, encode_base64};
use berth_streaming::{Settings, Target};
use rig::spdy::Spdy;
use rig::websocket::WebSocket;
use rig::{Rig, streams, until};

const V4: &str = "v4.channel.k8s.io";
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

#[tokio::test]
async fn outputs_are_apart_and_the_end_is_last() {
    let rig = Rig::new().await;
    let url = rig.shell("echo out; echo err >&2; exit 7", streams("oe"));
    let mut client = Spdy::upgrade(&url, V4).await;
    let ids = client.open_all(&["error", "stdout", "stderr"]).await;
    client.until(|client| ids.iter().all(|id| client.fin(*id))).await;
    assert_eq!((client.text(ids[1]), client.text(ids[2])), ("out\n".into(), "err\n".into()));
    let status: serde_json::Value = serde_json::from_str(&client.text(ids[0])).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    assert_eq!(client.ended.last(), Some(&ids[0]), "the status comes after the last byte");
    assert!(ids.iter().all(|id| client.got[id].replied));
    drop(client);
    until("waited", || rig.world.waited.load(Ordering::SeqCst) == 1).await;
    assert_eq!(rig.world.abandoned.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_version_tells_the_end_its_way() {
    let rig = Rig::new().await;
    for (version, code, expected) in [
        (V4, 0, SUCCESS),
        ("v3.channel.k8s.io", 0, ""),
        ("v2.channel.k8s.io", 3, "command terminated with exit code 3"),
        ("channel.k8s.io", 3, "command terminated with exit code 3"),
    ] {
        let mut client = Spdy::upgrade(&rig.shell(&format!("exit {code}"), streams("o")), version).await;
        let ids = client.open_all(&["error", "stdout"]).await;
        client.until(|client| client.fin(ids[0])).await;
        assert_eq!(client.text(ids[0]), expected, "{version}");
    }
}

#[tokio::test]
async fn the_end_of_stdin_reaches_the_process() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.exec(&["cat"], streams("io")), V4).await;
    let ids = client.open_all(&["error", "stdin", "stdout"]).await;
    client.send(ids[1], b"hello ", false).await;
    client.send(ids[1], b"world", true).await;
    client.until(|client| client.fin(ids[0])).await;
    assert_eq!(client.text(ids[2]), "hello world");
    assert_eq!(client.text(ids[0]), SUCCESS);
    assert!(client.fin(ids[1]), "the server's side of stdin ends too");
}

/// More than all buffers on the way hold, both ways at once, with a reader that stops now and then.
#[tokio::test(flavor = "multi_thread")]
async fn much_passes_intact_at_the_readers_pace() {
    const SIZE: usize = 24 << 20;
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.exec(&["cat"], streams("io")), V4).await;
    let ids = client.open_all(&["error", "stdin", "stdout"]).await;
    client.until(|client| ids.iter().all(|id| client.got.get(id).is_some_and(|got| got.replied))).await;
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut sent = 0;
    let mut turn = 0usize;
    while sent < SIZE || !client.fin(ids[0]) {
        // Frames of odd sizes, and reading in between so that neither side waits for the other for ever.
        if sent < SIZE {
            turn += 1;
            let end = (sent + 1 + turn * 7919 % 60_000).min(SIZE);
            client.send(ids[1], &pattern[sent..end], end == SIZE).await;
            sent = end;
        }
        let got = client.got[&ids[2]].bytes.len();
        if sent - got > 100_000 || sent == SIZE {
            assert!(client.read().await);
        }
        if turn.is_multiple_of(200) && sent < SIZE {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    assert!(client.got[&ids[2]].bytes == pattern, "what came back is what was sent");
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_process_and_nothing_else() {
    let rig = Rig::new().await;
    let mut stuck = Spdy::upgrade(&rig.exec(&["cat", "/dev/zero"], streams("o")), V4).await;
    stuck.open_all(&["error", "stdout"]).await;
    let mut client = Spdy::upgrade(&rig.shell("echo fine", streams("o")), V4).await;
    let ids = client.open_all(&["error", "stdout"]).await;
    client.until(|client| client.fin(ids[0])).await;
    assert_eq!(client.text(ids[1]), "fine\n");
    drop(stuck);
    until("its process is ended", || rig.world.abandoned.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn sizes_come_before_the_start_and_after_it() {
    let rig = Rig::new().await;
    let url = rig.shell("read a; echo $a", streams("tio"));
    let mut client = Spdy::upgrade(&url, V4).await;
    let resize = client.open_all(&["error", "resize"]).await[1];
    client.send(resize, b"{\"Width\":100,", false).await;
    client.send(resize, b"\"Height\":40}\n", false).await;
    let ids = client.open_all(&["stdin", "stdout"]).await;
    until("the early size", || *rig.world.sizes.lock() == [(100, 40)]).await;
    client.send(resize, b"nonsense", false).await;
    client.send(resize, b"", true).await;
    client.send(ids[0], b"alive\n", false).await;
    client.until(|client| client.fin(1)).await;
    assert_eq!(client.text(ids[1]), "alive\n", "a resize stream that breaks and ends does not end the exec");
}

#[tokio::test]
async fn a_client_that_goes_takes_its_process_along() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.exec(&["sleep", "1000"], streams("io")), V4).await;
    let ids = client.open_all(&["error", "stdin", "stdout"]).await;
    client.until(|client| client.got.contains_key(&ids[2])).await;
    // Input that nobody takes lies in the way of the end of the connection: more than the session holds, less than it and
    // the socket's buffer hold together (what does not fit there keeps the end of the connection at the client).
    for _ in 0..8 {
        client.send(ids[1], &[0; 60_000], false).await;
    }
    drop(client);
    until("abandoned", || rig.world.abandoned.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn what_cannot_start_is_told_on_the_error_stream() {
    let rig = Rig::new().await;
    for version in [V4, "v2.channel.k8s.io"] {
        let target =
            Target::Exec { container: "gone".into(), command: vec!["x".into()], streams: streams("o") };
        let mut client = Spdy::upgrade(&rig.urls.url(target).unwrap(), version).await;
        let ids = client.open_all(&["error", "stdout"]).await;
        client.until(|client| client.fin(ids[0])).await;
        assert!(client.text(ids[0]).contains("no container gone"), "{}", client.text(ids[0]));
        assert!(client.fin(ids[1]) && client.text(ids[1]).is_empty());
    }
}

#[tokio::test]
async fn streams_nobody_asked_for_are_refused() {
    let rig = Rig::new().await;
    let mut client = Spdy::upgrade(&rig.shell("echo x", streams("o")), V4).await;
    let ids = client.open_all(&["error", "stdin", "nonsense", "error", "stdout"]).await;
    client.until(|client| client.fin(ids[0])).await;
    for id in &ids[1..4] {
        assert_eq!(client.got[id].reset, Some(3), "stream {id}");
    }
    client.ping(77).await;
    client.until(|client| client.pongs == [77]).await;
    let late = client.open(&[("streamtype", "stderr")]).await;
    client.send(late, b"", true).await;
}

#[tokio::test]
async fn channels_carry_the_same() {
    let rig = Rig::new().await;
    let url = rig.shell("cat; echo err >&2; exit 9", streams("ioe"));
    let mut client = WebSocket::upgrade(&url, "v5.channel.k8s.io").await;
    client.send(0, b"hello").await;
    client.raw(Opcode::Ping, b"there?").await;
    // Closes channel 0.
    client.send(255, &[0]).await;
    client.until(|client| client.closed.is_some()).await;
    assert_eq!((client.text(1), client.text(2)), ("hello".into(), "err\n".into()));
    assert!(client.text(3).contains(r#""message":"9""#), "{}", client.text(3));
    assert_eq!(client.closed, Some((1000, String::new())));
    assert_eq!(client.messages.first(), Some(&vec![1]), "an empty message tells that the server is there");
    client.leave().await;
    while client.read().await {}
}

#[tokio::test]
async fn base64_and_the_oldest_form() {
    let rig = Rig::new().await;
    let mut client =
        WebSocket::upgrade(&rig.shell("head -c 5", streams("io")), "base64.channel.k8s.io").await;
    client.raw(Opcode::Text, &encode_base64(0, b"hello world")).await;
    client.until(|client| client.closed.is_some()).await;
    assert!(client.messages.contains(&encode_base64(1, b"hello")), "{:?}", client.messages);
    assert_eq!(client.got.get(&b'3'), None, "success is silent");
    let mut client = WebSocket::upgrade(&rig.shell("exit 2", streams("o")), "").await;
    client.until(|client| client.closed.is_some()).await;
    assert_eq!(client.text(3), "command terminated with exit code 2");
}

#[tokio::test]
async fn the_end_of_the_daemon_is_told() {
    let mut rig = Rig::new().await;
    let mut old = Spdy::upgrade(&rig.exec(&["sleep", "1000"], streams("o")), V4).await;
    let ids = old.open_all(&["error", "stdout"]).await;
    let mut new = WebSocket::upgrade(&rig.exec(&["sleep", "1000"], streams("o")), "v5.channel.k8s.io").await;
    old.until(|client| client.got.contains_key(&ids[1])).await;
    new.until(|client| !client.messages.is_empty()).await;
    let told = async {
        old.until(|client| client.gone).await;
        new.until(|client| client.closed.is_some()).await;
        let texts = (old.text(ids[0]), new.closed.clone());
        drop((old, new));
        texts
    };
    let ((text, closed), ()) = tokio::join!(told, rig.stop());
    assert!(text.contains("the daemon ends"), "{text}");
    assert_eq!(closed, Some((1001, "the daemon ends".into())));
    assert_eq!(rig.world.abandoned.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_rests_too_long_is_ended() {
    let rig = Rig::with(Settings {
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 0,
        tls: None,
        idle: Duration::from_millis(100),
    })
    .await;
    let mut client =
        WebSocket::upgrade(&rig.exec(&["sleep", "1000"], streams("o")), "v5.channel.k8s.io").await;
    client.until(|client| client.closed.is_some()).await;
    assert!(client.closed.clone().unwrap().1.starts_with("nothing moved for"), "{:?}", client.closed);
    assert_eq!(rig.world.abandoned.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_process() {
    let rig = Rig::new().await;
    let mut client =
        WebSocket::upgrade(&rig.exec(&["sleep", "1000"], streams("io")), "v4.channel.k8s.io").await;
    client.raw(Opcode::Continuation, b"x").await;
    client.until(|client| client.closed.is_some()).await;
    assert_eq!(client.closed.clone().unwrap().0, 1002);
    assert_eq!(rig.world.abandoned.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_end_of_an_attach_is_a_success_but_for_v5() {
    let rig = Rig::new().await;
    let url = || {
        let target = Target::Attach { container: "there".into(), streams: streams("io") };
        rig.urls.url(target).unwrap()
    };
    let mut client = Spdy::upgrade(&url(), V4).await;
    let ids = client.open_all(&["error", "stdin", "stdout"]).await;
    client.send(ids[1], b"4\n", true).await;
    client.until(|client| client.fin(ids[0])).await;
    assert_eq!((client.text(ids[2]), client.text(ids[0])), ("4\n".into(), SUCCESS.into()));
    let mut client = WebSocket::upgrade(&url(), "v5.channel.k8s.io").await;
    client.send(0, b"4\n").await;
    client.send(255, &[0]).await;
    client.until(|client| client.closed.is_some()).await;
    assert!(client.text(3).contains(r#""message":"4""#), "{}", client.text(3));
}

#[tokio::test]
async fn a_url_works_once() {
    let rig = Rig::new().await;
    let url = rig.shell("true", streams("o"));
    let _first = Spdy::upgrade(&url, V4).await;
    let upgrade = "Upgrade: SPDY/3.1\r\n";
    let (_, answer, _) = rig::ask(&url, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let url = rig.shell("true", streams("o"));
    let (_, answer, _) = rig::ask(&url, &format!("{upgrade}X-Stream-Protocol-Version: v9\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(V4), "{answer}");
}
