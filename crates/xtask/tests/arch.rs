//! The architecture's rules hold, and the checks that say so can fail.

#[path = "../src/arch.rs"]
mod arch;

use std::path::Path;

use arch::{Workspace, edge};

fn workspace() -> Workspace {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Workspace::open(&root).expect("the workspace's manifests are readable")
}

fn none(broken: &[String]) {
    assert!(broken.is_empty(), "\n  {}\n", broken.join("\n  "));
}

#[test]
fn dependencies_go_one_way() {
    none(&workspace().dependencies());
}

#[test]
fn the_shim_links_what_it_may() {
    none(&workspace().shim_closure().unwrap());
}

#[test]
fn unsafe_stays_at_home_and_lints_are_shared() {
    none(&workspace().lints().unwrap());
}

#[test]
fn the_documents_name_what_exists_and_leave_no_crate_out() {
    none(&workspace().documents().unwrap());
}

#[test]
fn each_rule_is_named_when_it_breaks() {
    let table: &[(&str, &str, bool, bool, &str)] = &[
        ("berth-ids", "berth-pods", true, true, "leaves, mechanisms"),
        ("berth-pods", "berth-images", true, true, "leaves, mechanisms"),
        ("berth-server", "berth", true, true, "nobody depends on a program"),
        ("berth-shim-client", "berth-shim", false, true, "nobody depends on a program"),
        ("berth-new", "berth-ids", true, true, "is not in the table"),
        ("berth-pods", "tonic", true, false, "gRPC stays"),
        ("berth-pods", "prost-types", false, false, "gRPC stays"),
        ("berth-images", "rusqlite", true, false, "only store"),
        ("berth-unpack", "tokio-util", true, false, "no tokio"),
    ];
    for (from, to, shipped, ours, rule) in table {
        let broken = edge(from, to, *shipped, *ours);
        assert!(broken.iter().any(|b| b.contains(rule) && b.contains(from)), "{from} to {to}: {broken:?}");
    }
    for (from, to, shipped, ours) in [
        ("berth-pods", "berth-ids", true, true),
        ("berth-pods", "berth-model", true, true),
        ("berth-server", "tonic", true, false),
        ("berth-unpack", "tokio", false, false),
    ] {
        none(&edge(from, to, shipped, ours));
    }
}
