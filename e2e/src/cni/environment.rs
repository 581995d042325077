//! The environment of plugins: of the protocol's variables what the verb has, of the daemon's what is not its own.

use std::collections::BTreeSet;

use super::recorder::Recorder;
use crate::checks::Checks;
use crate::daemon::Daemon;

/// Of the administrator, for plugins.
const PASSED_ON: &str = "LANE_OWN";
/// Beginnings of what is addressed to the daemon alone.
const KEPT: [&str; 4] = ["BERTH_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"];
/// Of a call for a pod (CNI 1.1, section 2).
const OF_POD: &[&str] =
    &["CNI_ARGS", "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH"];
const BARE: &[&str] = &["CNI_COMMAND", "CNI_PATH"];
/// VERSION has stand-ins for all of them, as libcni gives it: plugins of before CNI 0.3 want them for every verb.
const VERBS: [(&str, &[&str]); 6] = [
    ("ADD", OF_POD),
    ("CHECK", OF_POD),
    ("DEL", OF_POD),
    ("GC", BARE),
    ("STATUS", BARE),
    ("VERSION", OF_POD),
];

/// What the daemon has from now on beside its own: strays of the protocol, what systemd tells a service, and what is for plugins.
pub(super) fn prepare(daemon: &mut Daemon) {
    let socket = daemon.path("nobody.sock").display().to_string();
    let all = [
        (PASSED_ON, "1"),
        ("BERTH_LANE", "1"),
        ("CNI_IFNAME", "stray0"),
        ("CNI_NETNS_OVERRIDE", "1"),
        ("CNI_STRAY", "1"),
        ("LISTEN_FDS", "0"),
        ("LISTEN_PID", "1"),
        ("NOTIFY_SOCKET", &socket),
        ("WATCHDOG_USEC", "1000000000"),
    ];
    daemon.environment.extend(all.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// Of every call that there was.
pub(super) fn all(checks: &mut Checks, recorder: &Recorder) -> anyhow::Result<()> {
    let found = recorder.variables()?;
    for (verb, wanted) in VERBS {
        let sets = found.get(verb).cloned().unwrap_or_default();
        let of_protocol = |names: &BTreeSet<String>| -> Vec<String> {
            names.iter().filter(|name| name.starts_with("CNI_")).cloned().collect()
        };
        let exact = !sets.is_empty() && sets.iter().all(|names| of_protocol(names) == wanted);
        checks.that(
            &format!("{verb}: {}, and nothing else of CNI", wanted.join(" ")),
            exact,
            format!("{sets:?}"),
        );
    }
    let known: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
    let others: Vec<_> = found.keys().filter(|verb| !known.contains(&verb.as_str())).collect();
    checks.that("no other verb", others.is_empty(), format!("{others:?}"));
    let mut names = found.values().flatten();
    let passed = names.clone().all(|names| names.contains(PASSED_ON) && names.contains("PATH"));
    let kept = names.find(|names| names.iter().any(|name| KEPT.iter().any(|kept| name.starts_with(kept))));
    checks.that("the administrator's variables are passed on", passed, "some call without");
    checks.that("  the daemon's own are not", kept.is_none(), format!("{kept:?}"));
    Ok(())
}
