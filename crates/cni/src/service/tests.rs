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

/// Two plugins in a chain, each of which writes down what it is told.
fn cni(home: &Path) -> Cni {
    let script = r#"#!/bin/sh
input=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
*) echo "$CNI_COMMAND ${0##*/} $(ls HOME/netns 2>/dev/null | wc -l) $input" >> HOME/calls
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
    let settings = CniSettings {
        instance: "t".into(),
        conf_dir: Some(home.join("conf")),
        handler_dirs: BTreeMap::new(),
        bin_dirs: vec![home.join("bin")],
        netns_dir: home.join("netns"),
        state: home.join("state"),
        root: home.join("root"),
        timeout: Duration::from_secs(20),
        retry_for: Duration::from_secs(100),
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
