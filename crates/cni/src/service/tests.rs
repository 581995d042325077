//! Over a plugin that is a program, with a network namespace of the test's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::{Call, Does, InUse, Known, PluginError};

/// There are programs alone.
#[derive(Debug)]
struct Nothing;

impl InProcess for Nothing {
    fn does(&self, _: &Known) -> Does {
        Does::Nothing
    }

    fn foresee(&self, _: &str, _: &RuntimeConfig) -> Result<(), PluginError> {
        Ok(())
    }

    fn come(&self, first: Option<&Known>, _: BorrowedFd<'_>) -> Result<(), PluginError> {
        assert_eq!(first, None, "nothing is done in-process");
        Ok(())
    }

    fn add(&self, _: &Known, _: &Call<'_>) -> Result<CniResult, PluginError> {
        unreachable!("nothing is done in-process")
    }

    fn del(&self, _: &Known, _: &Call<'_>) -> Result<(), PluginError> {
        unreachable!("nothing is done in-process")
    }

    fn check(&self, _: &Known, _: &Call<'_>) -> Result<(), PluginError> {
        unreachable!("nothing is done in-process")
    }

    fn gc(&self, _: &Known, _: &str, _: &[InUse]) -> Result<(), PluginError> {
        unreachable!("nothing is done in-process")
    }

    fn status(&self, _: &Known, _: &str) -> Result<(), PluginError> {
        unreachable!("nothing is done in-process")
    }
}

/// Two plugins in a chain, each of which writes down what it is told and behaves as a file says.
fn cni(home: &Path) -> Cni {
    plugins(home);
    over(home, Duration::from_secs(20), Duration::from_secs(100))
}

fn plugins(home: &Path) {
    let script = r#"#!/bin/sh
input=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
*) echo "$CNI_COMMAND ${0##*/} $(ls HOME/netns 2>/dev/null | wc -l) $input" >> HOME/calls
   [ -f HOME/behave ] && . HOME/behave
   [ "$CNI_COMMAND ${0##*/}" = "ADD b" ] && cp HOME/root/cni/attachments/* HOME/during
   [ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24"}]}' ;;
esac
exit 0
"#;
    for directory in ["bin", "conf"] {
        std::fs::create_dir_all(home.join(directory)).unwrap();
    }
    for name in ["a", "b"] {
        let path = home.join("bin").join(name);
        std::fs::write(&path, script.replace("HOME", &home.display().to_string())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let conf = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a"},{"type":"b"}]}"#;
    std::fs::write(home.join("conf/1.conflist"), conf).unwrap();
}

fn over(home: &Path, timeout: Duration, retry_for: Duration) -> Cni {
    let settings = CniSettings {
        instance: "t".into(),
        conf_dir: Some(home.join("conf")),
        handler_dirs: BTreeMap::new(),
        bin_dirs: vec![home.join("bin")],
        netns_dir: home.join("netns"),
        state: home.join("state"),
        root: home.join("root"),
        timeout,
        retry_for,
        in_process: true,
    };
    Cni::new(settings, Arc::new(Nothing), Box::new(|| Ok(())))
}

fn attach(cni: &Cni, container: &str, netns: BorrowedFd<'_>) -> Connected {
    let pod = || CniPod {
        container,
        name: PodName::default(),
        handler: "",
        runtime: RuntimeConfig::default(),
        netns,
        path: "/proc/1/ns/net".into(),
    };
    loop {
        // Another test's child may have a script open for writing up to its exec (ETXTBSY, execve(2)).
        match cni.attach(pod()) {
            Err(error) if whole(&error).contains("does not start") => {}
            made => return made.unwrap(),
        }
    }
}

#[test]
fn an_end_that_is_postponed_is_paid_later() {
    let home = tempfile::tempdir().unwrap();
    let (cni, container) = (cni(home.path()), "1".repeat(64));
    let netns = berth_sys::netns::new_netns().unwrap();
    let made = attach(&cni, &container, netns.as_fd());
    assert_eq!((made.ips.len(), cni.connected().len()), (1, 1));
    cni.postpone(&container, None, "they are busy".into());
    assert!(cni.connected().is_empty() && cni.knows(&container));
    let told = cni.report().notes.join("; ");
    assert!(told.contains("they are busy"), "{told}");
    std::fs::write(home.path().join("calls"), "").unwrap();
    drop(netns);
    let end = Instant::now() + Duration::from_secs(20);
    while cni.pay().is_some() {
        assert!(Instant::now() < end, "{:?}", cni.report());
        std::thread::sleep(Duration::from_millis(20));
    }
    let calls = std::fs::read_to_string(home.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    // The namespace was kept for them by its path.
    assert!(
        calls.len() == 2 && calls[0].starts_with("DEL b 1 ") && calls[1].starts_with("DEL a 1 "),
        "{calls:?}"
    );
    assert!(calls.iter().all(|call| call.contains("prevResult")), "{calls:?}");
    assert!(!cni.knows(&container) && std::fs::read_dir(home.path().join("netns")).unwrap().count() == 0);
}

#[test]
fn a_daemon_that_dies_in_a_later_plugin_leaves_what_the_earlier_one_said() {
    let home = tempfile::tempdir().unwrap();
    let (cni, container) = (cni(home.path()), "2".repeat(64));
    let netns = berth_sys::netns::new_netns().unwrap();
    attach(&cni, &container, netns.as_fd());
    let during: Record = record::read(&home.path().join("during")).unwrap();
    assert_eq!(during.result.unwrap()["ips"][0]["address"], "10.9.0.7/24");
    cni.detach(&container, Some(netns.as_fd()), None);
}

/// Verb and plugin of the calls since the last time.
fn order(home: &Path) -> Vec<String> {
    let calls = std::fs::read_to_string(home.join("calls")).unwrap_or_default();
    std::fs::write(home.join("calls"), "").unwrap();
    calls.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Until nothing is owed any more.
fn paid(cni: &Cni) {
    let end = Instant::now() + Duration::from_secs(60);
    while let Some(due) = cni.pay() {
        assert!(Instant::now() < end, "{:?}", cni.report());
        std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
}

#[test]
fn an_end_that_fails_for_too_long_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let retry_for = Duration::from_secs(2);
    plugins(home.path());
    let (cni, container) = (over(home.path(), Duration::from_secs(20), retry_for), "3".repeat(64));
    let netns = berth_sys::netns::new_netns().unwrap();
    attach(&cni, &container, netns.as_fd());
    let fails = r#"[ "$CNI_COMMAND ${0##*/}" = "DEL b" ] && echo '{"code":11,"msg":"later"}' && exit 1"#;
    std::fs::write(home.path().join("behave"), fails).unwrap();
    order(home.path());
    let since = Instant::now();
    cni.detach(&container, Some(netns.as_fd()), None);
    assert_eq!(order(home.path()), ["DEL b"], "the other one waits for it");
    let kept = cni.records.get(&container).and_then(|record| record.ending).unwrap();
    assert_eq!(kept.attempts, 1);
    let report = cni.report();
    assert!(report.notes.join("; ").contains("plugin b of network net: DEL: later (code 11)"), "{report:?}");
    assert!(report.verbose["owed"][&container]["since"] == kept.since, "{report:?}");
    // What is owed is on disk: another daemon goes on, and counts from the beginning.
    let next = over(home.path(), Duration::from_secs(20), retry_for);
    next.restore(HashMap::new());
    paid(&next);
    assert!(since.elapsed() >= Duration::from_secs(1), "the clock that counts has whole seconds");
    let mut calls = order(home.path());
    // Nobody asks again, so the other one is asked now.
    assert_eq!(calls.split_off(calls.len() - 2), ["DEL b", "DEL a"]);
    assert!(!calls.is_empty() && calls.iter().all(|call| call == "DEL b"), "{calls:?}");
    assert!(!next.knows(&container) && next.report().notes.is_empty());
    assert_eq!(next.report().verbose["owed"], serde_json::json!({}));
}

#[test]
fn an_end_that_hangs_is_owed_after_its_time() {
    let home = tempfile::tempdir().unwrap();
    plugins(home.path());
    let cni = over(home.path(), Duration::from_secs(2), Duration::from_secs(100));
    let container = "4".repeat(64);
    let netns = berth_sys::netns::new_netns().unwrap();
    attach(&cni, &container, netns.as_fd());
    let hangs = r#"case "$CNI_COMMAND ${0##*/}" in "DEL b") sleep 600 & echo $! > HOME/hung; wait ;; esac"#;
    std::fs::write(home.path().join("behave"), hangs.replace("HOME", &home.path().display().to_string()))
        .unwrap();
    order(home.path());
    let since = Instant::now();
    cni.detach(&container, Some(netns.as_fd()), None);
    let took = since.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&took), "{took:?}");
    // Whoever ends it once more does not wait once more.
    let since = Instant::now();
    cni.detach(&container, None, None);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(order(home.path()), ["DEL b"]);
    let said = cni.report().notes.join("; ");
    assert!(said.contains(&container) && said.contains("did not end within 2s"), "{said}");
    let hung = std::fs::read_to_string(home.path().join("hung")).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", hung.trim())).unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(10);
    while !(state().is_empty() || state().contains(") Z ")) {
        assert!(Instant::now() < end, "it runs: {}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_file(home.path().join("behave")).unwrap();
    order(home.path());
    paid(&cni);
    assert_eq!(order(home.path()), ["DEL b", "DEL a"]);
    assert!(!cni.knows(&container));
}
