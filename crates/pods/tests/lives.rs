//! Whole lives of pods over the fakes: what each verb leaves behind, also when a step of it fails.

#[path = "world/mod.rs"]
mod world;

use std::time::Duration;

use berth_ids::{Classify as _, ErrorClass};
use berth_model::{ContainerFilter, ContainerState, SandboxFilter, SandboxState};
use berth_pods::PodsError;
use world::{Fake, container, sandbox};

fn nothing_left(fake: &Fake) {
    let world = fake.0.lock();
    assert!(world.shims.is_empty(), "a shim is left");
    assert!(world.addresses.is_empty(), "an address is left");
    assert!(world.leases.is_empty(), "a lease is left");
    assert!(world.sandboxes.is_empty(), "a sandbox record is left");
    assert!(world.containers.is_empty(), "a container record is left");
    assert!(world.running.is_empty(), "a process is left");
}

#[tokio::test]
async fn a_whole_life_leaves_nothing() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();
    assert_eq!(
        pods.container_status(&ctr.as_str()[..8], false).await.unwrap().state,
        ContainerState::Running
    );
    let out = pods.exec_sync(ctr.as_str(), vec!["hi".into()], None).await.unwrap();
    assert_eq!(out.stdout, b"hi");
    fake.exits(&ctr, 0, false);
    let status = pods.container_status(ctr.as_str(), false).await.unwrap();
    assert_eq!(
        (status.state, status.reason.as_str(), status.exit_code),
        (ContainerState::Exited, "Completed", 0)
    );
    pods.stop_sandbox(id.as_str()).await.unwrap();
    let (status, _) = pods.sandbox_status(id.as_str(), true).unwrap();
    assert_eq!((status.state, status.ips.len()), (SandboxState::NotReady, 0));
    pods.remove_sandbox(id.as_str()).await.unwrap();
    nothing_left(&fake);
    pods.remove_sandbox(id.as_str()).await.unwrap();
    pods.stop_container(ctr.as_str(), Duration::ZERO).await.unwrap();
    assert_eq!(pods.sandbox_status(id.as_str(), false).unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn people_name_pods_as_they_like() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (a, b) =
        (pods.run_sandbox(sandbox("a")).await.unwrap(), pods.run_sandbox(sandbox("b")).await.unwrap());
    let full = pods.connection("a").unwrap().name;
    for wanted in ["a", full.as_str(), &a.as_str()[..20], a.as_str()] {
        assert_eq!(pods.connection(wanted).unwrap().id, a, "{wanted}");
    }
    assert_eq!(pods.connection("nobody").unwrap_err().class(), ErrorClass::NotFound);
    let mut again = sandbox("a");
    again.metadata.attempt += 1;
    let again = pods.run_sandbox(again).await.unwrap();
    assert!(matches!(pods.connection("a"), Err(PodsError::Ambiguous { matches: 2, .. })));
    pods.stop_sandbox(a.as_str()).await.unwrap();
    assert_eq!(pods.connection("a").unwrap().id, again);
    assert_eq!(pods.known(), [a, b, again].into());
    assert_eq!(pods.connections().iter().filter(|one| one.ready && one.attachment.is_some()).count(), 2);
}

#[tokio::test]
async fn the_same_call_again_gives_the_same_object() {
    let fake = Fake::default();
    let pods = fake.pods();
    let (first, second) = tokio::join!(pods.run_sandbox(sandbox("a")), pods.run_sandbox(sandbox("a")));
    let id = first.unwrap();
    assert_eq!(second.unwrap(), id);
    assert_eq!(pods.run_sandbox(sandbox("a")).await.unwrap(), id);
    assert_eq!(fake.0.lock().spawned, 1);
    let mut other = sandbox("a");
    other.hostname = "other".into();
    assert_eq!(pods.run_sandbox(other).await.unwrap_err().class(), ErrorClass::AlreadyExists);

    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    assert_eq!(pods.create_container(id.as_str(), container("c")).await.unwrap(), ctr);
    pods.start_container(ctr.as_str()).await.unwrap();
    assert_eq!(
        pods.create_container(id.as_str(), container("c")).await.unwrap_err().class(),
        ErrorClass::AlreadyExists
    );
    assert_eq!(pods.start_container(ctr.as_str()).await.unwrap_err().class(), ErrorClass::FailedPrecondition);
}

#[tokio::test]
async fn a_stop_that_waits_for_a_removal_brings_nothing_back() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let (removed, stopped) = tokio::join!(pods.remove_sandbox(id.as_str()), pods.stop_sandbox(id.as_str()));
    removed.unwrap();
    stopped.unwrap();
    nothing_left(&fake);
}

/// Whoever makes a container while the pod is removed gets one that goes with it, or none.
#[tokio::test]
async fn a_removal_takes_what_is_just_made_along() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    fake.0.lock().slow_leases = true;
    let (_, removed) =
        tokio::join!(pods.create_container(id.as_str(), container("c")), pods.remove_sandbox(id.as_str()));
    removed.unwrap();
    nothing_left(&fake);
    assert!(pods.list_containers(&ContainerFilter::default()).is_empty());
}

#[tokio::test]
async fn a_failed_sandbox_leaves_nothing() {
    for step in ["put sandbox", "spawn", "attach", "files"] {
        let fake = Fake::default();
        let pods = fake.pods();
        fake.0.lock().fail = Some(step);
        let error = pods.run_sandbox(sandbox("a")).await.unwrap_err();
        assert!(matches!(error, PodsError::Port { .. }), "{step}: {error}");
        nothing_left(&fake);
        assert!(pods.list_sandboxes(&SandboxFilter::default()).is_empty(), "{step}");
        pods.run_sandbox(sandbox("a")).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_removal_is_finished_by_the_next() {
    for step in ["detach", "shutdown", "forget", "release", "delete container", "destroy", "delete sandbox"] {
        let fake = Fake::default();
        let pods = fake.pods();
        let id = pods.run_sandbox(sandbox("a")).await.unwrap();
        let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
        pods.start_container(ctr.as_str()).await.unwrap();
        if step == "forget" {
            pods.stop_container(ctr.as_str(), Duration::ZERO).await.unwrap();
            fake.0.lock().fail = Some(step);
            pods.remove_container(ctr.as_str()).await.unwrap_err();
        } else {
            fake.0.lock().fail = Some(step);
            pods.remove_sandbox(id.as_str()).await.unwrap_err();
        }
        pods.remove_sandbox(id.as_str()).await.unwrap();
        nothing_left(&fake);
    }
}

#[tokio::test]
async fn a_failed_start_is_an_end_with_128() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    fake.0.lock().fail = Some("start");
    pods.start_container(ctr.as_str()).await.unwrap_err();
    let status = pods.container_status(ctr.as_str(), false).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.finished_at > 0 && status.message.contains("fails as the test wants"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deaf_container_is_killed_when_its_grace_is_over() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();
    fake.0.lock().deaf = true;
    let long = tokio::spawn({
        let (pods, ctr) = (pods.clone(), ctr.clone());
        async move { pods.stop_container(ctr.as_str(), Duration::from_secs(3600)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pods.container_status(ctr.as_str(), false).await.unwrap().state, ContainerState::Running);
    // A later, shorter grace counts, and the signal is not sent a second time.
    let before = tokio::time::Instant::now();
    pods.stop_container(ctr.as_str(), Duration::from_secs(2)).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(60));
    long.await.unwrap().unwrap();
    assert_eq!(fake.0.lock().signals.len(), 1);
    assert_eq!(pods.container_status(ctr.as_str(), false).await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn the_next_daemon_adopts_and_clears() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("lives")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();
    let lost = pods.run_sandbox(sandbox("lost")).await.unwrap();
    let gone = pods.create_container(lost.as_str(), container("c")).await.unwrap();
    pods.start_container(gone.as_str()).await.unwrap();
    let half = pods.run_sandbox(sandbox("half")).await.unwrap();
    {
        let mut world = fake.0.lock();
        world.shims.remove(&lost);
        world.running.remove(&gone);
        world.sandboxes.get_mut(&half).unwrap().phase = berth_pods::Phase::Creating;
    }
    drop(pods);

    let pods = fake.pods();
    let found = pods.recover().await.unwrap();
    assert_eq!((found.adopted, found.stopped, found.cleared), (1, 1, 1));
    assert_eq!(pods.container_status(ctr.as_str(), false).await.unwrap().state, ContainerState::Running);
    let status = pods.container_status(gone.as_str(), false).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(pods.list_sandboxes(&SandboxFilter::default()).len(), 2);
    fake.exits(&ctr, 3, true);
    assert_eq!(pods.container_status(ctr.as_str(), false).await.unwrap().reason, "OOMKilled");
    pods.remove_all().await.unwrap();
    nothing_left(&fake);
}

#[tokio::test]
async fn after_a_boot_nothing_runs() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();
    {
        let mut world = fake.0.lock();
        world.rebooted = true;
        world.shims.clear();
        world.running.clear();
    }
    let pods = fake.pods();
    assert!(pods.recover().await.unwrap().rebooted);
    assert_eq!(pods.sandbox_status(id.as_str(), false).unwrap().0.state, SandboxState::NotReady);
    let listed = pods.list_containers(&ContainerFilter { sandbox_id: id.to_string(), ..Default::default() });
    assert_eq!(listed.iter().map(|c| c.state).collect::<Vec<_>>(), [ContainerState::Exited]);
    pods.remove_sandbox(id.as_str()).await.unwrap();
    nothing_left(&fake);
}

/// Waits, in the test's own time, until nothing is left of any pod.
async fn all_gone(fake: &Fake) {
    for _ in 0..600 {
        if fake.0.lock().sandboxes.is_empty() {
            assert!(fake.0.lock().shims.is_empty() && fake.0.lock().containers.is_empty());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it stays");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_to_go_with_its_container_does() {
    let fake = Fake::default();
    let pods = fake.pods();
    let mut config = sandbox("a");
    config.annotations.insert("berth.remove-after".into(), "30".into());
    let pod = pods.run_sandbox(config).await.unwrap();
    let id = pods.create_container(pod.as_str(), container("c")).await.unwrap();
    pods.start_container(id.as_str()).await.unwrap();
    let begin = tokio::time::Instant::now();
    fake.exits(&id, 3, false);
    all_gone(&fake).await;
    assert!(begin.elapsed().as_secs() >= 30);
}

#[tokio::test(start_paused = true)]
async fn also_when_the_daemon_did_not_live_to_see_it() {
    let fake = Fake::default();
    let pods = fake.pods();
    for (name, after) in [("goes", "1"), ("stays", "soon")] {
        let mut config = sandbox(name);
        config.annotations.insert("berth.remove-after".into(), after.into());
        let pod = pods.run_sandbox(config).await.unwrap();
        let id = pods.create_container(pod.as_str(), container("c")).await.unwrap();
        pods.start_container(id.as_str()).await.unwrap();
        drop(fake.0.lock().running.remove(&id));
    }
    let next = fake.pods();
    next.recover().await.unwrap();
    for _ in 0..600 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let left: Vec<String> =
        fake.0.lock().sandboxes.values().map(|record| record.config.metadata.name.clone()).collect();
    assert_eq!(left, ["stays"]);
}
