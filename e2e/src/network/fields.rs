//! What a pod gets in-process beside what it gets by programs, from the same configuration, field by field.

mod scenes;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_sys::netns::run_in;
use serde_json::Value;

pub(super) use self::scenes::{SCENES, Scene};
use super::kind::Kind;
use super::machine::{Machine, tool};
use super::pods::Served;
use super::ports::tcp;
use crate::checks::{Checks, until};
use crate::client::{Client, pod};
use crate::conflist::in_use;
use crate::daemon::Daemon;

/// Of numbers and times that are others with each pod; of queues that the kernel makes for each processor and leaves unused,
/// where Berth has it make one, and of what counts them.
const CHANGING: [&str; 9] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "valid_life_time",
    "preferred_life_time",
    "min_mtu",
    "num_rx_queues",
    "num_tx_queues",
    "refcnt",
];

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
        // What was up before its first port tells no state: it works as well.
        leaf if at == "bridge.link.operstate" && leaf == "UNKNOWN" => {
            into.insert(at.to_owned(), r#""UP""#.into());
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
fn stand_in(bridge: &str) -> Result<Option<String>> {
    let found: Value = serde_json::from_str(&tool(&format!("ip -j address show dev {bridge}"))?)?;
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

/// The host's side: its interfaces by what they are to the pod.
fn outside(links: &[(&str, &str)], names: &Names, into: &mut Fields) -> Result<()> {
    for (at, interface) in links {
        shown(&format!("{at}.link"), &format!("ip -d -j link show dev {interface}"), names, into)?;
        addresses(&format!("{at}.addresses"), interface, names, into)?;
        shown(&format!("{at}.queue"), &format!("tc -j qdisc show dev {interface}"), names, into)?;
        tunables(&format!("{at}.tunables"), interface, into)?;
        if *at == "port" {
            shown("port.filter", &format!("tc -j filter show dev {interface} parent ffff:"), names, into)?;
        }
    }
    routes(names, into)?;
    for version in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{version}"))?;
        into.insert(format!("host.{version}"), value.trim().to_owned());
    }
    Ok(())
}

fn routes(names: &Names, into: &mut Fields) -> Result<()> {
    for version in ["4", "6"] {
        let line = format!("ip -j -{version} route show table all");
        shown(&format!("host.routes{version}"), &line, names, into)?;
    }
    Ok(())
}

/// Files that a plugin keeps: names, modes, contents.
fn files(at: &str, directory: &Path, names: &Names, into: &mut Fields) -> Result<()> {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry?.path();
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
        let text = format!("{:?}", std::fs::read_to_string(&path)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let at = format!("{at}.{}", names.plain(&name));
        into.insert(format!("{at}.mode"), format!("{mode:o}"));
        into.insert(format!("{at}.text"), names.plain(&text));
    }
    Ok(())
}

/// All that can be seen of the first pod of a scene.
pub(super) async fn of(daemon: &Daemon, machine: &Machine, kind: Kind, scene: &Scene) -> Result<Fields> {
    scene.before.iter().try_for_each(|line| tool(line).map(drop))?;
    // Comes before the lane's own by its name.
    let file = daemon.path("cni/00-scene.conflist");
    if let Some(conf) = scene.conf {
        std::fs::write(daemon.path("resolv.conf"), scenes::RESOLV_CONF)?;
        std::fs::write(&file, conf(&daemon.path("")).to_string())?;
        in_use(daemon, |shown| {
            let plugins = shown["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
            let all = plugins.iter().all(|one| one["in_process"] == (kind == Kind::InProcess));
            shown["network"] == scene.network && shown["problem"].is_null() && all
        })
        .await?;
    }
    let hardware = || -> Result<Option<Value>> {
        let Some(bridge) = scene.bridge.filter(|_| !scene.before.is_empty()) else { return Ok(None) };
        let found: Value = serde_json::from_str(&tool(&format!("ip -j link show dev {bridge}"))?)?;
        Ok(Some(found[0]["address"].clone()))
    };
    let before = hardware()?;
    let mut found = seen(daemon, machine, scene).await?;
    if let (Some(before), Some(after)) = (before, hardware()?) {
        found.insert("bridge.keeps its address".into(), (before == after).to_string());
    }
    if scene.conf.is_some() {
        std::fs::remove_file(&file)?;
        kind.ready(daemon).await?;
    }
    Ok(found)
}

async fn seen(daemon: &Daemon, machine: &Machine, scene: &Scene) -> Result<Fields> {
    let limited = |way: &str| (format!("kubernetes.io/{way}-bandwidth"), "80M".to_owned());
    let mut config = pod("fields", &daemon.path("logs"));
    if scene.asks {
        config.port_mappings = vec![tcp(8080)];
        config.annotations = [limited("ingress"), limited("egress")].into();
    }
    let before = run_in(machine.own.as_fd(), || {
        let mut found = Fields::new();
        Ok(routes(&Names(Vec::new()), &mut found).map(|()| found))
    })??;
    let served = Served::of(daemon, "fields", config).await?;
    let info = Client::connect(&daemon.socket()).await?.pod_info(&served.id).await?;
    let record = &info["network"]["cni"];
    let interfaces = record["result"]["interfaces"].as_array().context("no interfaces")?;
    let names = interfaces.iter().filter(|one| one["sandbox"].as_str().is_none_or(str::is_empty));
    let names: Vec<&str> = names.filter_map(|one| one["name"].as_str()).collect();
    let of_ifb = |name: &&&str| name.starts_with("bwp");
    let host = names.iter().find(|name| Some(**name) != scene.bridge && !of_ifb(name));
    let host = *host.context("no interface of the host's")?;
    let ifb = names.iter().find(of_ifb).copied();
    let links: Vec<(&str, &str)> = [("bridge", scene.bridge), ("port", Some(host)), ("ifb", ifb)]
        .into_iter()
        .filter_map(|(at, name)| Some((at, name?)))
        .collect();
    let netns = record["sandbox"].as_str().unwrap_or_default().to_owned();
    // The kernel asks for duplicates a while, where it is to.
    until("the addresses to be settled", || async {
        Ok((tool("ip -j -6 address show tentative")?.trim() == "[]").then_some(()))
    })
    .await?;
    let stand_in = scene.bridge.map(stand_in).transpose()?.flatten();
    let mut plain = vec![
        (netns, "NETNS"),
        (served.id.clone(), "POD"),
        (host.to_owned(), "HOST"),
        (daemon.path("").display().to_string(), "HOME/"),
    ];
    plain.extend(stand_in.map(|ip| (ip, "STAND-IN")));
    plain.extend(ifb.map(|name| (name.to_owned(), "IFB")));
    let names = Names(plain);
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
        Ok(outside(&links, &names, &mut found).map(|()| found))
    })?;
    found.extend(outside?);
    // Those of other networks are not this pod's; their flags change as their pods go.
    let others: Vec<String> = SCENES
        .iter()
        .filter_map(|other| other.bridge.filter(|bridge| Some(*bridge) != scene.bridge))
        .map(|bridge| format!("{{\"dev\":\"{bridge}\","))
        .collect();
    found.retain(|field, _| !before.contains_key(field) && !others.iter().any(|dev| field.contains(dev)));
    files("ipam", &daemon.path("ipam").join(scene.network), &names, &mut found)?;
    files("tuning", &daemon.path("tuning"), &names, &mut found)?;
    served.gone(daemon).await?;
    Ok(found)
}

/// What was prepared goes.
pub(super) fn away() -> Result<()> {
    tool(&format!("ip link delete {}", scenes::FOUND)).map(drop)
}

pub(super) fn compare(checks: &mut Checks, scene: &Scene, in_process: &Fields, programs: &Fields) {
    let all: BTreeSet<&String> = in_process.keys().chain(programs.keys()).collect();
    let differing: Vec<&String> =
        all.iter().copied().filter(|field| in_process.get(*field) != programs.get(*field)).collect();
    let allowed = |field: &str| scene.allowed.iter().find(|(name, _)| is(field, name));
    let value = |fields: &Fields, field: &str| fields.get(field).cloned().unwrap_or_else(|| "nothing".into());
    let show = |field: &&String| {
        format!("{field}: {} in-process, {} by programs", value(in_process, field), value(programs, field))
    };
    let other: Vec<String> = differing.iter().filter(|field| allowed(field).is_none()).map(show).collect();
    let count = all.len();
    checks.that(
        &format!(
            "{}: {count} fields of a pod are the same in-process and by programs, but for {}",
            scene.what,
            scene.allowed.len()
        ),
        other.is_empty() && count > scene.least,
        other.join("\n      "),
    );
    for (name, why) in scene.allowed {
        let differs = differing.iter().any(|field| is(field, name));
        checks.that(&format!("  {name}: {why}"), differs, "no difference any more");
    }
    for (field, wanted) in scene.in_process {
        let found = value(in_process, field);
        checks.that(&format!("  {field} in-process is {wanted}"), found == *wanted, found);
    }
}

/// Whether a name stands for a field. One of a list's member ends where a value does.
fn is(field: &str, name: &str) -> bool {
    match field.strip_prefix(name) {
        Some(rest) if name.contains('{') => rest.is_empty() || rest.starts_with([',', '}']),
        rest => rest == Some(""),
    }
}
