//! The program as a person types it: exit codes and what is said.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::process::{Command, Output};

fn berth(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.env_clear().env("BERTH_CONFIG", "/dev/null").envs(environment.iter().copied()).args(arguments);
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn exit_codes() {
    let nowhere = tempfile::tempdir().unwrap();
    let state = nowhere.path().to_str().unwrap();
    let table: &[(&[&str], i32, &str)] = &[
        (&["version"], 0, ""),
        (&["--help"], 0, ""),
        (&["serve", "--help"], 0, ""),
        (&["config", "check"], 0, ""),
        (&["frobnicate"], 64, "frobnicate"),
        (
            &["config", "check", "--network-mtu", "x"],
            64,
            "flag --network-mtu: network.mtu: \"x\" is not a whole number",
        ),
        (&["serve", "--log-format", "xml"], 64, "flag --log-format"),
        (&["config", "check", "--config", "/nowhere.toml"], 64, "read /nowhere.toml: No such file"),
        (&["status", "--state", state], 69, "no daemon answers at"),
        (&["reset", "--state", state], 64, "not without --yes"),
        (&["network", "reset", "--state", state], 64, "not without --yes: network reset"),
        (&["network", "check", "--state", state], 64, "POD"),
        (&["network", "inspect", "--state", state], 69, "no daemon answers at"),
        (&["reset", "--yes", "--state", state], 69, "start it with `berth serve`"),
        (&["image", "import", "/nowhere.tar", "--state", state], 1, "open /nowhere.tar: No such file"),
    ];
    for (arguments, code, says) in table {
        let output = berth(arguments, &[]);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(says), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn a_bad_file_is_named_with_line_and_hint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("berth.toml");
    std::fs::write(&path, "[network]\nmtoo = 1500\n").unwrap();
    for verb in [&["serve"][..], &["config", "check"], &["status"]] {
        let output = berth(&[verb, &["--config", path.to_str().unwrap()]].concat(), &[]);
        assert_eq!(output.status.code(), Some(64), "{verb:?}");
        let expected = "berth.toml:2:1: unknown key \"network.mtoo\", did you mean \"network.mtu\"?";
        assert!(err(&output).contains(expected), "{}", err(&output));
    }
}

#[test]
fn a_dump_tells_where_each_value_came_from() {
    let output = berth(&["config", "dump", "--name", "blue"], &[("BERTH_LOG_LEVEL", "debug")]);
    let text = out(&output);
    for expected in [
        "name = \"blue\"  # flag --name",
        "state = \"/run/berth-blue\"  # follows name",
        "socket = \"/run/berth-blue/berth.sock\"  # follows state",
        "level = \"debug\"  # environment BERTH_LOG_LEVEL",
        "mtu = 0  # default",
    ] {
        let squeezed = text.lines().any(|line| {
            line.split_once('#')
                .is_some_and(|(value, origin)| format!("{}  #{origin}", value.trim_end()) == expected)
        });
        assert!(squeezed, "{expected:?} is not in\n{text}");
    }
}

#[test]
fn a_daemon_on_a_state_that_is_taken_is_refused_with_the_pid() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let lock = std::fs::File::create(state.join("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(state.join("lock"), std::process::id().to_string()).unwrap();
    let root = directory.path().join("root");
    let output = berth(
        &["serve", "--name", "taken", "--state", state.to_str().unwrap(), "--root", root.to_str().unwrap()],
        &[],
    );
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    let expected = format!("another daemon (pid {}) already has {}", std::process::id(), state.display());
    assert!(err(&output).contains(&expected), "{}", err(&output));
}
