//! Exec, attach and port-forward over fakes: who may, and what their ends are.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod world;

use berth_ids::{Classify as _, ContainerId, ErrorClass, SandboxId};
use berth_pods::Pods;
use berth_pods::ports::{Manner, Streams};
use world::*;

const ALL: Streams = Streams { tty: false, stdin: true, stdout: true, stderr: true };

async fn started(pods: &Pods, tty: bool) -> (SandboxId, ContainerId) {
    let pod = pods.run_sandbox(sandbox("a")).await.unwrap();
    let config = berth_model::ContainerConfig { tty, stdin: true, stdin_once: true, ..container("c") };
    let id = pods.create_container(pod.as_str(), config).await.unwrap();
    (pod, id)
}

#[tokio::test]
async fn only_what_runs_has_streams() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (pod, id) = started(&pods, false).await;
    let class = |error: berth_pods::PodsError| error.class();
    let exec = async |id: &str| pods.exec(id, vec!["sh".into()], ALL).await;
    assert_eq!(class(exec("missing").await.unwrap_err()), ErrorClass::NotFound);
    assert_eq!(class(pods.attach("missing", ALL).await.unwrap_err()), ErrorClass::NotFound);
    assert_eq!(class(pods.connect("missing", 80).await.unwrap_err()), ErrorClass::NotFound);
    assert_eq!(class(pods.running_container("missing").unwrap_err()), ErrorClass::NotFound);
    // Created, not running.
    for error in [
        exec(id.as_str()).await.unwrap_err(),
        pods.attach(id.as_str(), ALL).await.unwrap_err(),
        pods.running_container(id.as_str()).unwrap_err(),
    ] {
        assert_eq!(class(error), ErrorClass::FailedPrecondition);
    }
    pods.start_container(id.as_str()).await.unwrap();
    // Also by a prefix of the id.
    assert_eq!(pods.running_container(&id.as_str()[..12]).unwrap(), id);
    assert_eq!(pods.ready_sandbox(&pod.as_str()[..12]).unwrap(), pod);
    assert_eq!(exec(id.as_str()).await.unwrap().handle.wait().await.unwrap().unwrap().code, 5);
    let empty = pods.exec(id.as_str(), Vec::new(), ALL).await.unwrap_err();
    assert_eq!(
        (empty.to_string().as_str(), class(empty)),
        ("cmd must not be empty", ErrorClass::InvalidArgument)
    );
    pods.connect(pod.as_str(), 80).await.unwrap();
    assert_eq!(class(pods.connect(pod.as_str(), 0).await.unwrap_err()), ErrorClass::InvalidArgument);
    pods.stop_sandbox(pod.as_str()).await.unwrap();
    assert_eq!(class(pods.connect(pod.as_str(), 80).await.unwrap_err()), ErrorClass::FailedPrecondition);
    assert_eq!(class(pods.attach(id.as_str(), ALL).await.unwrap_err()), ErrorClass::FailedPrecondition);
}

#[tokio::test]
async fn an_attach_ends_with_the_container() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (_, id) = started(&pods, false).await;
    pods.start_container(id.as_str()).await.unwrap();
    let attached = pods.attach(id.as_str(), ALL).await.unwrap();
    assert!(attached.stdin.is_some() && attached.stdout.is_some() && attached.stderr.is_some());
    attached.handle.resize(100, 30).unwrap();
    // Asked and let go of: a second asking still answers.
    tokio::select! {
        biased;
        ended = attached.handle.wait() => panic!("{ended:?}"),
        () = std::future::ready(()) => {}
    }
    fake.exits(&id, 9, false);
    fake.0.lock().broken.send_replace(Some(false));
    assert_eq!(attached.handle.wait().await.unwrap().unwrap().code, 9);
    assert_eq!(fake.0.lock().columns, [100]);
}

#[tokio::test]
async fn a_container_with_a_terminal_has_one_stream_whatever_the_client_says() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (_, id) = started(&pods, true).await;
    pods.start_container(id.as_str()).await.unwrap();
    let attached = pods.attach(id.as_str(), ALL).await.unwrap();
    assert!(attached.stderr.is_none());
    let once = Manner { stdin_once: true, waits: false };
    assert_eq!(fake.0.lock().attached, [(Streams { tty: true, stderr: false, ..ALL }, once)]);
    attached.handle.hang_up().await;
    assert_eq!(fake.0.lock().hung_up, 1);
    pods.running_container(id.as_str()).unwrap();
}

#[tokio::test]
async fn a_reader_that_fell_behind_hears_of_it_also_after_the_end() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (_, id) = started(&pods, false).await;
    pods.start_container(id.as_str()).await.unwrap();
    let attached = pods.attach(id.as_str(), ALL).await.unwrap();
    fake.0.lock().broken.send_replace(Some(true));
    fake.exits(&id, 0, false);
    assert_eq!(attached.handle.wait().await.unwrap_err().class(), ErrorClass::ResourceExhausted);
}
