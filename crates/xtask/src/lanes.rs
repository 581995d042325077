//! The end-to-end lanes: one table for what runs them, tells of them and lists them.

use clap::builder::PossibleValuesParser;

use crate::packages::{self, Tool};

/// What of the machine a lane has for itself: what it and its peers leave there ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Nothing,
    /// A mount namespace.
    Mounts,
    /// A mount namespace and a network namespace.
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of `cargo xtask test`.
    Test,
    /// A part of other lanes, which can be run alone.
    Part,
    /// Of `cargo xtask bench`.
    Bench,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) own: Own,
    /// Beside [`packages::TEST`].
    pub(crate) tools: &'static [&'static [Tool]],
    what: &'static str,
}

const fn test(name: &'static str, own: Own, tools: &'static [&'static [Tool]], what: &'static str) -> Lane {
    Lane { name, kind: Kind::Test, own, tools, what }
}

const fn bench(name: &'static str, tools: &'static [&'static [Tool]], what: &'static str) -> Lane {
    Lane { name, kind: Kind::Bench, own: Own::Host, tools, what }
}

/// In the order in which they are run.
#[rustfmt::skip]
pub(crate) const LANES: [Lane; 28] = [
    test("demo", Own::Nothing, &[], "real pods, shown"),
    test("crictl", Own::Nothing, &[], "each verb through crictl"),
    test("images", Own::Nothing, &[], "registries that are slow, cut, lie and redirect, and pushes to them"),
    test("layers", Own::Mounts, &[&packages::DISKS], "archives, damage, pulls cut and killed, full and failing disks"),
    test("restart", Own::Nothing, &[], "the daemon killed in the middle of each verb"),
    test("requests", Own::Nothing, &[], "malformed requests of every kind"),
    test("limits", Own::Nothing, &[], "limits, from inside the container and from the kernel's files"),
    test("stats", Own::Nothing, &[], "statistics, beside the kernel's files"),
    test("streaming", Own::Nothing, &[], "exec, attach and port-forward with Kubernetes' own client"),
    test("network", Own::Host, &[&packages::CNI], "the pods' network; [FOCUS]: one kind of it, as embedded"),
    test("neighbours", Own::Host, &[], "the pods' network beside Docker, firewalld, ufw and kube-proxy"),
    test("cni", Own::Host, &[&packages::CNI], "CNI plugins as programs"),
    test("cli", Own::Nothing, &[], "berth run and the like, at a terminal and in a script; [FOCUS]: no-registry"),
    test("skew", Own::Nothing, &[], "a client three releases old"),
    test("process", Own::Nothing, &[], "processes: users, capabilities, seccomp, signals, logs"),
    test("userns", Own::Nothing, &[], "user namespaces"),
    test("mounts", Own::Nothing, &[], "mounts, their options and propagation"),
    test("escapes", Own::Nothing, &[], "attacks from inside a container"),
    test("hostile", Own::Mounts, &[], "images that nobody honest makes"),
    test("kubelet", Own::Host, &[&packages::KUBELET], "a real kubelet; [FOCUS]: one group, as volumes"),
    test("node", Own::Nothing, &[&packages::KUBELET], "the page deploy/node.md as it stands"),
    test("conformance", Own::Host, &[], "critest; [FOCUS]: specs that match a regular expression"),
    test("vm", Own::Nothing, &[&packages::VM], "several of these in a virtual machine with control groups v2 alone"),
    Lane { name: "modes", kind: Kind::Part, own: Own::Nothing, tools: &[], what: "pods of other kinds; part of crictl and vm" },
    bench("bench", &[&packages::BENCH], "pods, memory and streams beside containerd; [FOCUS]: streams"),
    bench("bench-network", &[&packages::CNI], "pods' networks beside CNI's programs"),
    bench("bench-node", &[&packages::BENCH, &packages::KUBELET], "a kubelet's pods beside containerd's"),
    bench("bench-pull", &[&packages::BENCH, &packages::REGISTRY, &packages::DISKS], "pulls beside containerd"),
];

/// What `cargo xtask bench` takes for the figures of streams alone.
pub(crate) const STREAMS: &str = "streams";

pub(crate) fn of(kind: Kind) -> impl Iterator<Item = &'static Lane> {
    LANES.iter().filter(move |lane| lane.kind == kind)
}

/// For a word that names a lane.
pub(crate) fn names() -> PossibleValuesParser {
    LANES.iter().map(|lane| lane.name).collect::<Vec<_>>().into()
}

/// For a word that names a part of the bench.
pub(crate) fn benches() -> PossibleValuesParser {
    of(Kind::Bench).map(|lane| lane.name).chain([STREAMS]).collect::<Vec<_>>().into()
}

pub(crate) fn named(name: &str) -> Option<&'static Lane> {
    LANES.iter().find(|lane| lane.name == name)
}

/// A line for each of these kinds' lanes.
pub(crate) fn list(kinds: &[Kind]) -> String {
    let shown = LANES.iter().filter(|lane| kinds.contains(&lane.kind));
    let lines: Vec<_> = shown.map(|lane| format!("  {:<14}{}", lane.name, lane.what)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_program_has_these_lanes_and_no_others() {
        let main = std::fs::read_to_string(crate::build::root().join("e2e/src/main.rs")).unwrap();
        let arms = main.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\" => "));
        let arms: BTreeSet<&str> = arms.map(|(name, _)| name).collect();
        assert_eq!(arms, LANES.iter().map(|lane| lane.name).collect());
    }
}
