//! Over scripts that behave as plugins do, well and badly.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn plugin(script: &str) -> (tempfile::TempDir, Programs) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("plugin");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let programs =
        Programs::new(vec![home.path().into()], home.path().join("calls"), Duration::from_secs(20));
    (home, programs)
}

/// Another test's child may have the script open for writing up to its exec (ETXTBSY, execve(2)).
fn call(
    programs: &Programs,
    verb: &str,
    environment: Environment<'_>,
    input: &[u8],
    bounds: Bounds<'_>,
) -> Result<Answer, ProgramError> {
    loop {
        match programs.run("plugin", verb, environment, input, bounds) {
            Err(ProgramError::Start { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {
            }
            done => return done,
        }
    }
}

fn run(script: &str, timeout: Duration) -> Result<Answer, ProgramError> {
    let (home, programs) = plugin(script);
    let environment = Environment { container: Some("id"), netns: Some(""), ..Environment::default() };
    let done = call(&programs, "DEL", environment, b"{\"a\":1}", timeout.into());
    assert_eq!(std::fs::read_dir(home.path().join("calls")).unwrap().count(), 0, "the input is left");
    done
}

#[test]
fn environment_and_input_are_exact() {
    let answer =
        run("env | grep ^CNI_ | grep -v PATH | sort; cat; echo x >&2", Duration::from_secs(20)).unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(text, "CNI_COMMAND=DEL\nCNI_CONTAINERID=id\nCNI_NETNS=\n{\"a\":1}");
    assert_eq!(answer.stderr, "x");
}

#[test]
fn the_daemons_own_variables_are_no_plugins_business() {
    for name in
        ["CNI_NETNS_OVERRIDE", "CNI_ARGS", "BERTH_ROOT", "NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"]
    {
        assert!(is_ours(name.as_ref()), "{name}");
    }
    for name in ["PATH", "HTTPS_PROXY", "KUBECONFIG", "MY_CNI_OPTION", ""] {
        assert!(!is_ours(name.as_ref()), "{name}");
    }
}

#[test]
fn failures_are_told_apart() {
    let long = Duration::from_secs(20);
    let told = |script: &str| run(script, long).unwrap_err().to_string();
    let refused = told("echo '{\"code\": 7, \"msg\": \"no\", \"details\": \"why\"}'; echo lines >&2; exit 1");
    assert_eq!(refused, "no (code 7): why; on stderr: lines");
    let class = |words: &str| {
        run(&format!("echo '{{\"code\": 100, \"msg\": \"{words}\"}}'; exit 1"), long).unwrap_err().class()
    };
    let full = class("failed to connect \\\"veth1\\\" to bridge cni0: exchange full");
    assert_eq!((full, class("no")), (ErrorClass::ResourceExhausted, ErrorClass::Internal));
    let mute = told("echo oops; exit 3");
    assert!(mute.contains("exit status: 3 and no word of CNI"), "{mute}");
    let killed = told("kill -9 $$");
    assert!(killed.contains("signal: 9"), "{killed}");
    let flood = told("yes");
    assert!(flood.contains("more than 1048576 bytes"), "{flood}");
    let (_home, programs) = plugin("true");
    let missing = programs.run("other", "ADD", Environment::default(), b"", long.into()).unwrap_err();
    assert!(matches!(missing, ProgramError::Missing { .. }) && missing.class() == ErrorClass::Unavailable);
}

#[test]
fn one_that_hangs_is_killed_with_its_children() {
    let started = Instant::now();
    let home = tempfile::tempdir().unwrap();
    let mark = home.path().join("child");
    let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
    let error = run(&script, Duration::from_millis(700)).unwrap_err();
    assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15));
    let child = std::fs::read_to_string(mark).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(10);
    while !(state().is_empty() || state().contains(") Z ")) {
        assert!(Instant::now() < end, "the child runs: {}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_that_is_cut_short_is_killed() {
    let turns = crate::turns::Turns::default();
    let (_home, programs) = plugin("sleep 1000");
    let collecting = turns.collect("net", Duration::ZERO).unwrap().unwrap();
    let bounds = Bounds { timeout: Duration::from_secs(20), cut: Some(&collecting.cut) };
    let ended = std::thread::scope(|scope| {
        let run = scope.spawn(|| call(&programs, "GC", Environment::default(), b"", bounds));
        // It does not end by itself: this only asks for it.
        assert!(turns.come("net", "one", Duration::ZERO).is_none());
        run.join().unwrap()
    });
    assert!(matches!(ended, Err(ProgramError::Cut)), "{ended:?}");
    drop(collecting);
    assert!(turns.come("net", "one", Duration::ZERO).is_some());
}

#[test]
fn one_that_leaves_a_child_with_the_pipes_is_not_waited_for() {
    let started = Instant::now();
    let answer = run("sleep 30 & echo done", Duration::from_secs(25)).unwrap();
    assert_eq!(answer.stdout, b"done\n");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_an_earlier_daemon_left_running_is_ended() {
    let (_home, programs) = plugin("sleep 1000");
    let (file, given) = programs.input("plugin", "ADD", b"{}").unwrap();
    let mut child =
        Command::new("sleep").arg("1000").process_group(0).stdin(Stdio::from(file)).spawn().unwrap();
    std::mem::forget(given);
    assert_eq!(programs.settle().unwrap(), 1);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!((programs.settle().unwrap(), std::fs::read_dir(&programs.calls).unwrap().count()), (0, 0));
}

#[test]
fn a_program_is_asked_for_its_versions_once_as_long_as_it_is_the_same() {
    let (home, programs) = plugin("true");
    let mut asked = 0;
    let mut ask = |said: Option<Version>| {
        let told = programs.spoken("plugin", || {
            asked += 1;
            Ok(said.map(|version| vec![version]))
        });
        (told.unwrap(), asked)
    };
    assert_eq!(ask(None), (None, 1));
    assert_eq!(ask(Some(Version::V1_0_0)), (Some(vec![Version::V1_0_0]), 2));
    assert_eq!(ask(None), (Some(vec![Version::V1_0_0]), 2));
    let (new, path) = (home.path().join("new"), home.path().join("plugin"));
    std::fs::copy(&path, &new).unwrap();
    std::fs::rename(new, path).unwrap();
    assert_eq!(ask(Some(Version::V1_1_0)), (Some(vec![Version::V1_1_0]), 3));
}
