use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::protocol::{Reply, Request};
use super::*;

/// Knows what it was asked; the status is longer than a packet.
#[derive(Default)]
struct Recorder {
    was_reset: AtomicBool,
    refuse: bool,
}

#[async_trait]
impl AdminBackend for Recorder {
    async fn image(&self, verb: ImageVerb, archive: Option<File>) -> Result<Value, Failure> {
        match (verb, archive) {
            (ImageVerb::Import { called, .. }, Some(mut archive)) => {
                let mut id = String::new();
                archive.read_to_string(&mut id)?;
                Ok(serde_json::to_value([ArchivedImage { id, names: vec![called] }])?)
            }
            (ImageVerb::Export { images, .. }, Some(mut archive)) => {
                Ok(json!(archive.write(images.join(" ").as_bytes())?))
            }
            // Never ends by itself.
            (ImageVerb::Explain { .. }, _) => std::future::pending().await,
            (verb, archive) => Ok(json!({ "asked": format!("{verb:?}"), "archive": archive.is_some() })),
        }
    }

    async fn reset(&self) -> Result<(), Failure> {
        self.was_reset.store(true, Ordering::Relaxed);
        if self.refuse { Err("a pod stays".into()) } else { Ok(()) }
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), Failure> {
        Err(format!("{container} {signal}").into())
    }

    async fn inspect_network(&self) -> Result<NetworkReport, Failure> {
        Ok(NetworkReport { primary: Some("ipv6".into()), ..NetworkReport::default() })
    }

    async fn inspect_pod(&self, pod: &str) -> Result<PodNetwork, Failure> {
        Err(format!("no {pod}").into())
    }

    async fn check_network(&self, pod: &str) -> Result<NetworkCheck, Failure> {
        let steps = vec![berth_network::Step::skipped(pod, "why")];
        Ok(NetworkCheck { steps, ..NetworkCheck::default() })
    }

    async fn reset_network(&self) -> Result<(), Failure> {
        Err("a pod uses it".into())
    }

    async fn status(&self) -> Value {
        json!({ "text": "x".repeat(100_000) })
    }
}

/// Asks over a pair of sockets: the same code as over the socket file but for connecting.
async fn ask(backend: Recorder, request: Request, archive: Option<File>) -> (Reply, bool) {
    let (client, server) = berth_sys::fd::seqpacket_pair().unwrap();
    berth_sys::fd::set_nonblocking(server.as_fd(), true).unwrap();
    let (stop, stopped) = watch::channel(false);
    let asking = tokio::task::spawn_blocking(move || {
        client::exchange(&client, &request, archive.as_ref().map(|file| file.as_fd())).unwrap()
    });
    let server = tokio::net::UnixStream::from_std(server.into()).unwrap();
    server::answer(server, &backend, &stop).await.unwrap();
    let reply = serde_json::from_slice(&asking.await.unwrap()).unwrap();
    let stopping = *stopped.borrow();
    (reply, stopping)
}

#[tokio::test]
async fn a_reply_may_be_longer_than_a_packet() {
    let (reply, stopping) = ask(Recorder::default(), Request::Status {}, None).await;
    let Reply::Done { value } = reply else { panic!("{reply:?}") };
    assert_eq!(value["text"].as_str().unwrap().len(), 100_000);
    assert!(!stopping);
}

#[tokio::test]
async fn the_archive_is_the_clients_own_descriptor() {
    let (read, write) = std::io::pipe().unwrap();
    let mut write = File::from(std::os::fd::OwnedFd::from(write));
    write.write_all(b"a tarball").unwrap();
    drop(write);
    let archive = File::from(std::os::fd::OwnedFd::from(read));
    let request = Request::Image { ask: ImageVerb::Import { called: "a:1".into(), name: None } };
    let (reply, _) = ask(Recorder::default(), request, Some(archive)).await;
    assert_eq!(reply, Reply::Done { value: json!([{ "id": "a tarball", "names": ["a:1"] }]) });
}

#[tokio::test]
async fn an_export_writes_to_the_clients_own_descriptor() {
    let (mut read, write) = std::io::pipe().unwrap();
    let archive = File::from(std::os::fd::OwnedFd::from(write));
    let images = vec!["a:1".into(), "b:2".into()];
    let request = Request::Image { ask: ImageVerb::Export { images, called: "x".into(), compress: None } };
    let (reply, _) = ask(Recorder::default(), request, Some(archive)).await;
    assert_eq!(reply, Reply::Done { value: json!(7) });
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "a:1 b:2");
}

#[tokio::test]
async fn an_import_without_a_descriptor_is_refused() {
    let request = Request::Image { ask: ImageVerb::Import { called: String::new(), name: None } };
    let (reply, _) = ask(Recorder::default(), request, None).await;
    assert_eq!(reply, Reply::Failed { error: "import needs exactly one descriptor, 0 came".into() });
}

#[tokio::test]
async fn only_a_reset_that_worked_stops_the_daemon() {
    let (reply, stopping) = ask(Recorder::default(), Request::Reset {}, None).await;
    assert_eq!((reply, stopping), (Reply::Done { value: Value::Null }, true));
    let (reply, stopping) =
        ask(Recorder { refuse: true, ..Recorder::default() }, Request::Reset {}, None).await;
    assert_eq!((reply, stopping), (Reply::Failed { error: "a pod stays".into() }, false));
}

fn password() -> Option<Password> {
    Some(Password { username: "me".into(), password: "hidden".into() })
}

#[tokio::test]
async fn a_push_carries_an_archive_where_it_says_so_and_its_password_is_not_shown() {
    let archive = || Some(File::open("/dev/null").unwrap());
    let push = Request::Image { ask: ImageVerb::PushArchive { to: None, login: password() } };
    assert!(!format!("{push:?}").contains("hidden"));
    let (reply, _) = ask(Recorder::default(), push.clone(), archive()).await;
    let asked = "PushArchive { to: None, login: Some(Password(…)) }";
    assert_eq!(reply, Reply::Done { value: json!({ "asked": asked, "archive": true }) });
    let (reply, _) = ask(Recorder::default(), push, None).await;
    assert_eq!(reply, Reply::Failed { error: "push_archive needs exactly one descriptor, 0 came".into() });
    let stored = Request::Image { ask: ImageVerb::Prune { dry_run: true } };
    let (reply, _) = ask(Recorder::default(), stored, None).await;
    let asked = "Prune { dry_run: true }";
    assert_eq!(reply, Reply::Done { value: json!({ "asked": asked, "archive": false }) });
}

#[tokio::test]
async fn what_only_the_client_waits_for_ends_with_it() {
    let (client, server) = berth_sys::fd::seqpacket_pair().unwrap();
    berth_sys::fd::set_nonblocking(server.as_fd(), true).unwrap();
    let request = Request::Image { ask: ImageVerb::Explain { image: "a".into(), login: None } };
    protocol::send(client.as_fd(), &request, None).unwrap();
    let server = tokio::net::UnixStream::from_std(server.into()).unwrap();
    let (stop, _) = watch::channel(false);
    let backend = Recorder::default();
    let mut answering = Box::pin(server::answer(server, &backend, &stop));
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut answering).await;
    assert!(early.is_err(), "it ended before its client");
    drop(client);
    answering.await.unwrap();
}

#[test]
fn what_is_no_request_is_named() {
    for bad in ["", "{}", "{\"verb\":\"format_disk\"}", "{\"verb\":\"status\",\"more\":1}"] {
        assert!(protocol::decode(bad.as_bytes(), Vec::new()).is_err(), "{bad:?} was taken as a request");
    }
}

#[tokio::test]
async fn the_socket_is_for_root_alone_and_replaces_a_stale_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(server::listen(&path).unwrap());
    let refused = client::ask(&path, &Request::Status {}, None);
    assert!(matches!(refused, Err(client::AskError::NoDaemon { .. })), "{refused:?}");
    let listener = server::listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (stop, _) = watch::channel(false);
    let serving = tokio::spawn(server::serve(listener, std::sync::Arc::new(Recorder::default()), stop));
    let answer =
        tokio::task::spawn_blocking(move || client::ask(&path, &Request::Status {}, None)).await.unwrap();
    assert!(answer.unwrap()["text"].is_string());
    serving.abort();
}

#[tokio::test]
async fn a_signal_comes_with_whom_and_which() {
    let request = Request::Signal { container: "abc".into(), signal: 15 };
    let (reply, stopping) = ask(Recorder::default(), request, None).await;
    assert_eq!((reply, stopping), (Reply::Failed { error: "abc 15".into() }, false));
}

#[tokio::test]
async fn the_network_is_asked_about_as_a_whole_or_pod_by_pod() {
    let value = |reply| match reply {
        Reply::Done { value } => value,
        Reply::Failed { error } => json!(error),
    };
    let ask = |request| async move { value(ask(Recorder::default(), request, None).await.0) };
    assert_eq!(ask(Request::NetworkInspect { pod: None }).await["primary"], "ipv6");
    assert_eq!(ask(Request::NetworkInspect { pod: Some("a".into()) }).await, "no a");
    let checked = ask(Request::NetworkCheck { pod: "a".into() }).await;
    assert_eq!(checked["steps"], json!([{ "name": "a", "outcome": "skipped", "found": "why" }]));
    assert_eq!(ask(Request::NetworkReset {}).await, "a pod uses it");
}
