//! What a pod gets in-process beside what it gets by programs, from the same configuration, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use berth_sys::netns::run_in;
use serde_json::Value;

use super::kind::{BRIDGE, ipam};
use super::machine::{Machine, tool};
use super::pods::Served;
use super::ports::tcp;
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// What leads a pod's packets to where they wait, with more that is done to them.
macro_rules! filter {
    ($more:literal) => {
        concat!(
            r#"port.filter {"chain":0,"kind":"u32","options":{"actions":["#,
            r#"{"bind":1,"control_action":{"type":"stolen"},"direction":"egress","index":1,"kind":"mirred","mirred_action":"redirect","order":1,"ref":1,"to_dev":"IFB"}"#,
            $more,
            r#"],"bkt":"0","fh":"800::800","flowid":"1:1","key_ht":"800","match":{"mask":"0","off":0,"offmask":"","value":"0"},"not_in_hw":true,"order":2048},"pref":1,"protocol":"all"}"#
        )
    };
}

/// What may differ, and why it does: fields, and members of lists by the beginning of their text.
const ALLOWED: &[(&str, &str)] = &[
    ("bridge.addresses.addr_info {\"family\":\"inet6\",\"local\":\"STAND-IN\"", STAND_IN),
    ("host.routes6 {\"dev\":\"lane0\",\"dst\":\"STAND-IN\"", STAND_IN),
    ("bridge.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:77::1\"", AT_ONCE),
    ("bridge.tunables.ipv6.accept_dad", AT_ONCE),
    ("pod.addresses.addr_info {\"family\":\"inet6\",\"local\":\"fd00:77::2\"", AT_ONCE),
    ("pod.tunables.eth0.ipv6.accept_ra", "no pod tells another its routes (CVE-2020-10749)"),
    ("port.tunables.ipv6.accept_ra", PORT),
    ("port.tunables.ipv6.disable_ipv6", PORT),
    ("port.addresses.addr_info {\"family\":\"inet6\",\"local\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"LINK-LOCAL/64\"", PORT),
    ("host.routes6 {\"dev\":\"HOST\",\"dst\":\"ff00::/8\"", PORT),
    (
        "ifb.tunables.ipv6.accept_ra",
        "the host goes on to learn routes while it forwards; the program's forgets its own",
    ),
    ("pod.link.txqlen", QUEUE),
    ("ifb.link.txqlen", QUEUE),
    (filter!(""), TWICE),
    (
        filter!(
            r#",{"bind":1,"control_action":{"type":"pass"},"direction":"egress","index":2,"kind":"mirred","mirred_action":"redirect","order":2,"ref":1,"to_dev":"IFB"}"#
        ),
        TWICE,
    ),
    ("ipam.lock.mode", "nobody executes a lock"),
];

const STAND_IN: &str = "it stands for ::1 on the way to a pod, which the program does not lead there";
const AT_ONCE: &str = "one gives all addresses of the network, so nobody is asked for duplicates";
const PORT: &str = "a port of a bridge speaks no IPv6 itself, and is up sooner without";
const TWICE: &str = "the program redirects each packet twice";
const QUEUE: &str = "the kernel's own length; the program asks for none";

/// Of numbers and times that are others with each pod.
const CHANGING: [&str; 6] =
    ["ifindex", "link_index", "link_netnsid", "valid_life_time", "preferred_life_time", "min_mtu"];

/// Field to value.
pub(super) type Fields = BTreeMap<String, String>;

/// Names of one pod that are no more than names.
struct Names(Vec<(String, &'static str)>);

impl Names {
    fn plain(&self, text: &str) -> String {
        let named = self.0.iter().fold(text.to_owned(), |text, (name, plain)| text.replace(name, plain));
        let mut rest = named.as_str();
        let mut found = String::new();
        while let Some(letter) = rest.chars().next() {
            if let Some(after) = mac(rest) {
                found.push_str("MAC");
                rest = after;
            } else if rest.starts_with("fe80::") {
                found.push_str("LINK-LOCAL");
                rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == ':');
            } else {
                found.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
        found
    }
}

/// What comes after a hardware address; a bridge's id has its bytes without leading zeros.
fn mac(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit() && c != ':')?;
    let (address, rest) = text.split_at(end);
    let mut bytes = 0;
    let whole = address.split(':').all(|byte| {
        bytes += 1;
        (1..=2).contains(&byte.len())
    });
    (whole && bytes == 6).then_some(rest)
}

/// A document's leaves. What is a list is a set of its members' texts.
fn flatten(at: &str, value: &Value, names: &Names, into: &mut Fields) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                if !CHANGING.contains(&key.as_str()) && !key.ends_with("_timer") {
                    flatten(&format!("{at}.{key}"), value, names, into);
                }
            }
        }
        Value::Array(all) => {
            for one in all {
                let mut one = one.clone();
                if let Some(fields) = one.as_object_mut() {
                    fields.retain(|key, _| !CHANGING.contains(&key.as_str()));
                }
                into.insert(format!("{at} {}", names.plain(&one.to_string())), "there".into());
            }
        }
        leaf => drop(into.insert(at.to_owned(), names.plain(&leaf.to_string()))),
    }
}

/// What ip(8) or tc(8) says of one thing, or of several.
fn shown(at: &str, line: &str, names: &Names, into: &mut Fields) -> Result<()> {
    let text = tool(line)?;
    let found: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text })
        .with_context(|| line.to_owned())?;
    match found.as_array().map(Vec::as_slice) {
        Some([one]) => flatten(at, one, names, into),
        _ => flatten(at, &found, names, into),
    }
    Ok(())
}

fn addresses(at: &str, interface: &str, names: &Names, into: &mut Fields) -> Result<()> {
    let found: Value = serde_json::from_str(&tool(&format!("ip -j address show dev {interface}"))?)?;
    flatten(&format!("{at}.addr_info"), &found[0]["addr_info"], names, into);
    Ok(())
}

/// The address that Berth gives the bridge beside the gateways.
fn stand_in() -> Result<Option<String>> {
    let found: Value = serde_json::from_str(&tool(&format!("ip -j address show dev {BRIDGE}"))?)?;
    let all = found[0]["addr_info"].as_array().context("no addr_info")?;
    let one = all.iter().find(|one| one["prefixlen"] == 128).and_then(|one| one["local"].as_str());
    Ok(one.map(str::to_owned))
}

/// Tunables of an interface.
fn tunables(at: &str, interface: &str, into: &mut Fields) -> Result<()> {
    for version in ["ipv4", "ipv6"] {
        let directory = Path::new("/proc/sys/net").join(version).join("conf").join(interface);
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            // Some can be written alone.
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            into.insert(format!("{at}.{version}.{name}"), text.trim().to_owned());
        }
    }
    Ok(())
}

fn inside(names: &Names) -> Result<Fields> {
    let mut found = Fields::new();
    shown("pod.link", "ip -d -j link show dev eth0", names, &mut found)?;
    addresses("pod.addresses", "eth0", names, &mut found)?;
    addresses("pod.lo", "lo", names, &mut found)?;
    shown("pod.routes4", "ip -j -4 route show table all", names, &mut found)?;
    shown("pod.routes6", "ip -j -6 route show table all", names, &mut found)?;
    shown("pod.queue", "tc -j qdisc show dev eth0", names, &mut found)?;
    for interface in ["eth0", "lo", "all", "default"] {
        tunables(&format!("pod.tunables.{interface}"), interface, &mut found)?;
    }
    let more = std::fs::read_to_string("/proc/sys/net/core/somaxconn")?;
    found.insert("pod.tunables.somaxconn".into(), more.trim().to_owned());
    Ok(found)
}

fn outside(host: &str, ifb: &str, names: &Names, into: &mut Fields) -> Result<()> {
    for (at, interface) in [("bridge", BRIDGE), ("port", host), ("ifb", ifb)] {
        shown(&format!("{at}.link"), &format!("ip -d -j link show dev {interface}"), names, into)?;
        addresses(&format!("{at}.addresses"), interface, names, into)?;
        shown(&format!("{at}.queue"), &format!("tc -j qdisc show dev {interface}"), names, into)?;
        tunables(&format!("{at}.tunables"), interface, into)?;
    }
    shown("port.filter", &format!("tc -j filter show dev {host} parent ffff:"), names, into)?;
    shown("host.routes4", "ip -j -4 route show table all", names, into)?;
    shown("host.routes6", "ip -j -6 route show table all", names, into)?;
    for version in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{version}"))?;
        into.insert(format!("host.{version}"), value.trim().to_owned());
    }
    Ok(())
}

/// host-local's files: names, modes, contents.
fn leases(directory: &Path, names: &Names, into: &mut Fields) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
        let text = format!("{:?}", std::fs::read_to_string(&path)?);
        let at = format!("ipam.{}", path.file_name().unwrap_or_default().to_string_lossy());
        into.insert(format!("{at}.mode"), format!("{mode:o}"));
        into.insert(format!("{at}.text"), names.plain(&text));
    }
    Ok(())
}

/// All that can be seen of the first pod of a daemon.
pub(super) async fn of(daemon: &Daemon, machine: &Machine) -> Result<Fields> {
    let limited = |way: &str| (format!("kubernetes.io/{way}-bandwidth"), "80M".to_owned());
    let config = PodSandboxConfig {
        port_mappings: vec![tcp(8080)],
        annotations: [limited("ingress"), limited("egress")].into(),
        ..pod("fields", &daemon.path("logs"))
    };
    let served = Served::of(daemon, "fields", config).await?;
    let info = Client::connect(&daemon.socket()).await?.pod_info(&served.id).await?;
    let record = &info["network"]["cni"];
    let interfaces = record["result"]["interfaces"].as_array().context("no interfaces")?;
    let named = |at: usize| interfaces.get(at).and_then(|one| one["name"].as_str()).unwrap_or_default();
    let (host, ifb) = (named(1).to_owned(), named(3).to_owned());
    let netns = record["sandbox"].as_str().unwrap_or_default().to_owned();
    // The kernel asks for duplicates a while, where it is to.
    until("the addresses to be settled", || async {
        Ok((tool("ip -j -6 address show tentative")?.trim() == "[]").then_some(()))
    })
    .await?;
    let stand_in = stand_in()?.unwrap_or_else(|| "no stand-in".to_owned());
    let names = Names(vec![
        (stand_in, "STAND-IN"),
        (netns, "NETNS"),
        (served.id.clone(), "POD"),
        (host.clone(), "HOST"),
        (ifb.clone(), "IFB"),
        (daemon.path("").display().to_string(), "HOME/"),
    ]);
    let mut found = Fields::new();
    for (key, value) in record["result"].as_object().context("no result")? {
        match value.as_array() {
            // Where an interface is in the list counts: addresses name it by that.
            Some(all) => all
                .iter()
                .enumerate()
                .for_each(|(at, one)| flatten(&format!("result.{key}.{at}"), one, &names, &mut found)),
            None => flatten(&format!("result.{key}"), value, &names, &mut found),
        }
    }
    let inside = run_in(served.netns.as_fd(), || Ok(inside(&names)))?;
    found.extend(inside?);
    let outside = run_in(machine.own.as_fd(), || {
        let mut found = Fields::new();
        Ok(outside(&host, &ifb, &names, &mut found).map(|()| found))
    })?;
    found.extend(outside?);
    leases(&ipam(daemon), &names, &mut found)?;
    served.gone(daemon).await?;
    Ok(found)
}

pub(super) fn compare(checks: &mut Checks, in_process: &Fields, programs: &Fields) {
    let all: BTreeSet<&String> = in_process.keys().chain(programs.keys()).collect();
    let differing: Vec<&String> =
        all.iter().copied().filter(|field| in_process.get(*field) != programs.get(*field)).collect();
    let allowed = |field: &str| ALLOWED.iter().find(|(name, _)| is(field, name));
    let value = |fields: &Fields, field: &str| fields.get(field).cloned().unwrap_or_else(|| "nothing".into());
    let show = |field: &&String| {
        format!("{field}: {} in-process, {} by programs", value(in_process, field), value(programs, field))
    };
    let other: Vec<String> = differing.iter().filter(|field| allowed(field).is_none()).map(show).collect();
    let count = all.len();
    checks.that(
        &format!(
            "{count} fields of a pod are the same in-process and by programs, but for {}",
            ALLOWED.len()
        ),
        other.is_empty() && count > 500,
        other.join("\n      "),
    );
    for (name, why) in ALLOWED {
        let differs = differing.iter().any(|field| is(field, name));
        checks.that(&format!("  {name}: {why}"), differs, "no difference any more");
    }
}

/// Whether a name stands for a field. One of a list's member ends where a value does.
fn is(field: &str, name: &str) -> bool {
    match field.strip_prefix(name) {
        Some(rest) if name.contains('{') => rest.is_empty() || rest.starts_with([',', '}']),
        rest => rest == Some(""),
    }
}
