//! What is told of pods while they live: statistics, events, changed limits.

#[path = "world/mod.rs"]
mod world;

use berth_ids::{Classify as _, ErrorClass};
use berth_model::{ContainerFilter, LifeEventKind as Kind, Resources, SandboxFilter};
use world::{Fake, container, sandbox};

#[tokio::test]
async fn statistics_are_of_what_runs() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let mut config = container("c");
    config.labels.insert("app".into(), "x".into());
    let ctr = pods.create_container(id.as_str(), config).await.unwrap();
    let idle = pods.create_container(id.as_str(), container("idle")).await.unwrap();
    let stopped = pods.run_sandbox(sandbox("b")).await.unwrap();
    pods.stop_sandbox(stopped.as_str()).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();

    let all = pods.list_container_stats(&ContainerFilter::default()).await;
    assert_eq!(all.iter().map(|s| &s.id).collect::<Vec<_>>(), [&ctr]);
    let by = |label: &str| ContainerFilter {
        labels: [("app".to_owned(), label.to_owned())].into(),
        ..ContainerFilter::default()
    };
    assert_eq!(pods.list_container_stats(&by("x")).await.len(), 1);
    assert!(pods.list_container_stats(&by("y")).await.is_empty());
    let prefix = ContainerFilter { id: ctr.as_str()[..9].into(), ..ContainerFilter::default() };
    let again = pods.list_container_stats(&prefix).await;
    assert!(again[0].at > all[0].at, "times go on though the clock stands");

    let listed = pods.list_sandbox_stats(&SandboxFilter::default(), false).await;
    assert_eq!((listed.len(), listed[0].containers.len(), &listed[0].id), (1, 1, &id));
    let one = pods.container_stats(idle.as_str()).await.unwrap();
    assert!(one.group.is_none(), "a created container has used nothing");
    let error = pods.sandbox_stats(stopped.as_str()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::FailedPrecondition);
    assert_eq!(pods.container_stats("0123").await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn every_step_is_told_once_and_in_order() {
    let fake = Fake::default();
    let pods = fake.pods();
    let mut events = pods.events();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    pods.start_container(ctr.as_str()).await.unwrap();
    fake.exits(&ctr, 3, false);
    let fails = pods.create_container(id.as_str(), container("f")).await.unwrap();
    fake.0.lock().fail = Some("start");
    pods.start_container(fails.as_str()).await.unwrap_err();
    pods.remove_container(fails.as_str()).await.unwrap();
    pods.stop_sandbox(id.as_str()).await.unwrap();
    pods.stop_sandbox(id.as_str()).await.unwrap();
    pods.remove_sandbox(id.as_str()).await.unwrap();

    let (mut told, mut code) = (Vec::new(), None);
    while let Ok(event) = events.try_recv() {
        if event.id == ctr.as_str() && event.kind == Kind::Stopped {
            code = event.containers.iter().find(|c| c.id == ctr).map(|c| c.exit_code);
        }
        assert_eq!(event.sandbox.id, id);
        told.push((event.id.clone(), event.kind));
    }
    let (pod, c, f) = (id.to_string(), ctr.to_string(), fails.to_string());
    let expected = [
        (&pod, Kind::Created),
        (&pod, Kind::Started),
        (&c, Kind::Created),
        (&c, Kind::Started),
        (&c, Kind::Stopped),
        (&f, Kind::Created),
        (&f, Kind::Stopped),
        (&f, Kind::Deleted),
        (&pod, Kind::Stopped),
        (&c, Kind::Deleted),
        (&pod, Kind::Deleted),
    ];
    assert_eq!(told, expected.map(|(id, kind)| (id.clone(), kind)));
    assert_eq!(code, Some(3), "the end comes with its status");
}

#[tokio::test]
async fn limits_change_as_a_whole_or_not_at_all() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let mut config = container("c");
    config.resources = Some(Resources { memory_limit: 8 << 20, cpu_shares: 5, ..Resources::default() });
    let ctr = pods.create_container(id.as_str(), config).await.unwrap();
    let memory = |bytes| Resources { memory_limit: bytes, ..Resources::default() };
    let now = async || pods.container_status(ctr.as_str(), false).await.unwrap().resources.unwrap();
    pods.update_container(ctr.as_str(), memory(16 << 20)).await.unwrap();
    assert_eq!((now().await.memory_limit, now().await.cpu_shares), (16 << 20, 5));
    assert!(fake.0.lock().limits.is_empty(), "nothing runs that could be limited");

    pods.start_container(ctr.as_str()).await.unwrap();
    pods.update_container(ctr.as_str(), memory(32 << 20)).await.unwrap();
    assert_eq!(fake.0.lock().limits, [Some(32 << 20)]);
    fake.0.lock().fail = Some("limit");
    pods.update_container(ctr.as_str(), memory(64 << 20)).await.unwrap_err();
    assert_eq!(now().await.memory_limit, 32 << 20);
    fake.0.lock().fail = Some("put container");
    pods.update_container(ctr.as_str(), memory(64 << 20)).await.unwrap_err();
    assert_eq!(now().await.memory_limit, 32 << 20);
    assert_eq!(fake.0.lock().limits.last(), Some(&Some(32 << 20)), "the old limit is back");
    let error = pods.update_container(ctr.as_str(), memory(4096)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::FailedPrecondition, "{error}");
    let error = pods.update_container(ctr.as_str(), memory(-1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::InvalidArgument);

    fake.exits(&ctr, 0, false);
    let error = pods.update_container(ctr.as_str(), memory(64 << 20)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::FailedPrecondition);
    pods.update_sandbox(id.as_str(), None, Some(memory(9))).await.unwrap();
    assert!(
        pods.sandbox_status(id.as_str(), true).unwrap().0.verbose.unwrap().contains("\"memory_limit\":9")
    );
}

#[tokio::test]
async fn an_end_is_told_though_the_start_was_another_daemons() {
    let fake = Fake::default();
    let pods = fake.pods();
    let id = pods.run_sandbox(sandbox("a")).await.unwrap();
    let ctr = pods.create_container(id.as_str(), container("c")).await.unwrap();
    let before = fake.0.lock().containers[&ctr].clone();
    pods.start_container(ctr.as_str()).await.unwrap();
    // Killed before the start was on disk: the record says "created", the shim knows better.
    fake.0.lock().containers.insert(ctr.clone(), before);
    let pods = fake.pods();
    pods.recover().await.unwrap();
    let mut events = pods.events();
    fake.exits(&ctr, 0, false);
    let event = events.try_recv().unwrap();
    assert_eq!((event.id.as_str(), event.kind), (ctr.as_str(), Kind::Stopped));
}
