//! `berth network`, as a person types it: what is drawn is what is there, and of what is broken by hand that very hop is named.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use berth_cri_api::v1::*;
use serde_json::Value;

use super::machine::{Machine, OUTSIDE, OWN, tool};
use super::pods::Served;
use super::ports::{map, tcp};
use super::traffic::{Datagrams, answers};
use crate::checks::Checks;
use crate::client::{Client, pod};
use crate::daemon::Daemon;

/// The step about rules that are not ours.
const OTHERS: &str = "others' rules";

/// A pod with these name servers.
fn asks(daemon: &Daemon, name: &str, servers: &[&str], ports: &[PortMapping]) -> PodSandboxConfig {
    let dns = DnsConfig {
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
        searches: vec!["lane.example".into()],
        options: vec!["ndots:3".into()],
    };
    PodSandboxConfig {
        dns_config: Some(dns),
        port_mappings: ports.to_vec(),
        ..pod(name, &daemon.path("logs"))
    }
}

fn json(daemon: &Daemon, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = ["network"].iter().chain(words).chain(&["--json"]).copied().collect();
    let (_, text) = daemon.says(&words)?;
    serde_json::from_str(&text).with_context(|| text)
}

pub(super) async fn all(checks: &mut Checks, machine: &Machine, daemon: &mut Daemon) -> Result<()> {
    let names = serve_names(&machine.own, OWN[0], true)?;
    let ports = [tcp(8080), map(Protocol::Tcp, 8081, 81, "127.0.0.1"), map(Protocol::Udp, 8082, 82, "")];
    let seen = Served::of(daemon, "seen", asks(daemon, "seen", &[OWN[0]], &ports)).await?;
    let other = Served::of(daemon, "other", asks(daemon, "other", &[OWN[0]], &[])).await?;
    inspected(checks, daemon, &seen)?;
    well(checks, daemon, &seen, &other)?;
    broken(checks, daemon, &seen)?;
    inside(checks, daemon).await?;
    drop(names);
    name_servers(checks, machine, daemon).await?;
    let (code, said) = daemon.says(&["network", "reset", "--yes"])?;
    let named = code == 1 && said.contains("demo/seen") && said.contains("demo/other");
    checks.that("network reset is refused with the pods' names", named, said);
    seen.gone(daemon).await?;
    other.gone(daemon).await?;
    taken_down(checks, machine, daemon).await
}

fn inspected(checks: &mut Checks, daemon: &Daemon, seen: &Served) -> Result<()> {
    let (code, text) = daemon.says(&["network", "inspect"])?;
    let ip = seen.ips[0].to_string();
    let words =
        ["ready", "bridge t", "demo/seen", &ip, "TCP port 8080 to port 80 of demo/seen", "4 addresses"];
    let lacks: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    checks.that(
        "network inspect draws the instance",
        code == 0 && lacks.is_empty(),
        format!("{lacks:?} {text}"),
    );
    let report = json(daemon, &["inspect"])?;
    let subnets = report["own"]["subnets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let used = subnets.len() == 2 && subnets.iter().all(|one| one["used"] == 2);
    checks.that("  and counts the addresses in use", used, &report["own"]["subnets"]);

    let (code, text) = daemon.says(&["network", "inspect", "seen"])?;
    let words =
        ["eth0 in the pod: up", &ip, "port of t", "TCP port 8080 to 80", "route default by", "pods4 "];
    let lacks: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    let whole = text.contains("differs from what was recorded: none") && !text.contains("MISSING");
    checks.that(
        "network inspect POD draws it, and finds all as recorded",
        code == 0 && lacks.is_empty() && whole,
        format!("{lacks:?} {text}"),
    );
    let view = json(daemon, &["inspect", &seen.id[..12]])?;
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::File::from(seen.netns.try_clone()?).metadata()?);
    let same = view["netns"][1] == inode && view["pod"]["id"] == seen.id.as_str();
    checks.that("  by the beginning of its id too, with the namespace's inode", same, &view["netns"]);
    let sent = |view: &Value| view["view"]["pod_end"]["sent"]["packets"].as_u64();
    let received = view["view"]["host_end"]["received"]["packets"].as_u64();
    let counted = sent(&view).is_some_and(|sent| sent > 0) && received == sent(&view);
    checks.that("  what the pod sent the host's end received", counted, &view["view"]);
    let (code, said) = daemon.says(&["network", "inspect", "nobody"])?;
    checks.that("  one that is not there is told", code == 1 && said.contains("nobody"), said);
    Ok(())
}

fn well(checks: &mut Checks, daemon: &Daemon, seen: &Served, other: &Served) -> Result<()> {
    let (code, text) = daemon.says(&["network", "check", "demo/seen"])?;
    let good = code == 0 && !text.contains("FAIL");
    checks.that("network check of a pod that is well", good, &text);
    let has = |start: &str, end: &str| text.lines().any(|l| l.starts_with(start) && l.ends_with(end));
    let all = has("ok      IPv4 gateway", "is known without asking")
        && has("ok      IPv6 to another pod", &format!("demo/other answers at {}", other.at(true)?.ip()))
        && has("ok      IPv4 to the host", "answers")
        && has("ok      name server 192.0.2.1", "answers NXDOMAIN")
        && text.contains("a connection is answered at 192.0.2.1, 2001:db8::1, 127.0.0.1, ::1");
    checks.that("  gateway, another pod, host and ports answered", all, &text);
    let skipped = has("skipped port TCP port 8081 on 127.0.0.1", "nothing in the pod listens on port 81");
    let skipped = skipped && has("skipped port UDP port 8082", "nothing in the pod listens on UDP port 82");
    checks.that("  a port that nobody listens at is no fault of the network", skipped, &text);
    let report = json(daemon, &["check", &seen.id])?;
    let steps = report["steps"].as_array().map_or(0, Vec::len);
    checks.that("  the same as JSON", steps == text.lines().count(), &report);
    Ok(())
}

/// Breaks something, and expects this failure first; then it is mended, and all is well again.
fn once(checks: &mut Checks, daemon: &Daemon, what: &str, tools: [&str; 2], words: [&str; 2]) -> Result<()> {
    tool(tools[0])?;
    let found = daemon.says(&["network", "check", "seen"]);
    tool(tools[1])?;
    let (code, text) = found?;
    // The first hop; what others stop comes last, after what is stopped.
    let mut failed = text.lines().filter(|line| line.starts_with("FAIL"));
    let said = if words[0] == OTHERS { failed.next_back() } else { failed.next() }.unwrap_or_default();
    let named = code == 1 && said.contains(words[0]) && said.contains(words[1]);
    checks.that(&format!("{what}: the check names it"), named, &text);
    let (code, text) = daemon.says(&["network", "check", "seen"])?;
    checks.that("  mended: all is well", code == 0, &text);
    Ok(())
}

fn broken(checks: &mut Checks, daemon: &Daemon, seen: &Served) -> Result<()> {
    let view = json(daemon, &["inspect", "seen"])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (host, bridge) = (text(&view["view"]["host_end"]["name"]), text(&view["view"]["bridge"]["name"]));
    let (table, ip) = (text(&view["view"]["table"]), seen.ips[0].to_string());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let routes = list(&view["view"]["routes"]);
    let gateways = routes.iter().filter(|route| route["destination"] == "default");
    let gateway = gateways.map(|route| text(&route["gateway"])).find(|ip| ip.contains('.'));
    let gateway = gateway.context("no default route of IPv4")?;
    let own = list(&view["view"]["bridge"]["addresses"]).iter().map(text).find(|ip| ip.starts_with(&gateway));
    let own = own.context("no such address on the bridge")?;
    let element = |verb: &str, set: &str, element: &str| {
        format!("nft {verb} element inet {table} {set} {{ {element} }}")
    };
    let port = format!("tcp . 8080 : {ip} . 80");
    let cases = [
        (
            "the host's end down",
            [format!("ip link set {host} down"), format!("ip link set {host} up")],
            ["host's end", "is down"],
        ),
        (
            "out of its bridge",
            [format!("ip link set {host} nomaster"), format!("ip link set {host} master {bridge}")],
            ["host's end", "is no port of bridge"],
        ),
        (
            "the gateway's address removed",
            [format!("ip address del {own} dev {bridge}"), format!("ip address add {own} dev {bridge}")],
            ["IPv4 gateway", &format!("{bridge} has lost {gateway}: no interface of the host has it")],
        ),
        (
            "the masquerade's element deleted",
            [element("delete", "hidden4", &ip), element("add", "hidden4", &ip)],
            ["masquerade", &format!("{ip} is not in set hidden4")],
        ),
        (
            "a port's element deleted",
            [element("delete", "ports4", "tcp . 8080"), element("add", "ports4", &port)],
            ["port TCP port 8080", "is not in map ports4"],
        ),
        (
            "forwarding turned off",
            ["sysctl -q -w net.ipv4.ip_forward=0".into(), "sysctl -q -w net.ipv4.ip_forward=1".into()],
            ["masquerade", "the host passes no IPv4 packets on"],
        ),
        (
            "somebody's firewall",
            [
                "nft add table ip lane ; add chain ip lane forward { type filter hook forward priority 0 ; policy drop ; }"
                    .into(),
                "nft delete table ip lane".into(),
            ],
            [OTHERS, "stopped by the policy of chain ip lane forward"],
        ),
    ];
    for (what, tools, words) in &cases {
        once(checks, daemon, what, [&tools[0], &tools[1]], *words)?;
    }
    tool(&cases[3].1[0])?;
    let (_, text) = daemon.says(&["network", "inspect", "seen"])?;
    tool(&cases[3].1[1])?;
    let told =
        text.contains(&format!("hidden4 {ip}  MISSING")) && text.contains("is not in set hidden4 of table");
    checks.that("network inspect names an element that is not in the kernel", told, text);
    Ok(())
}

/// What is broken within pods, each of them another one.
async fn inside(checks: &mut Checks, daemon: &Daemon) -> Result<()> {
    let cases = [
        ("the pod's interface down", "ip link set eth0 down", "interface in the pod", "eth0 is down"),
        ("the pod's interface gone", "ip link delete eth0", "interface in the pod", "there is no eth0"),
        ("the pod's address removed", "ip -4 address flush dev eth0", "IPv4 address", "eth0 has lost"),
        (
            "the pod's route removed",
            "ip -6 route del default",
            "IPv6 route",
            "the pod has no default route by",
        ),
    ];
    for (what, line, step, words) in cases {
        let served = Served::new(daemon, "inside", &[]).await?;
        let path = json(daemon, &["inspect", "inside"])?["netns"][0].as_str().unwrap_or_default().to_owned();
        tool(&format!("nsenter --net={path} {line}"))?;
        let (code, text) = daemon.says(&["network", "check", "inside"])?;
        let first = text.lines().find(|line| line.starts_with("FAIL")).unwrap_or_default();
        let named = code == 1 && first.contains(step) && first.contains(words);
        checks.that(&format!("{what}: the check names it"), named, &text);
        let view = json(daemon, &["inspect", "inside"])?;
        let differs = view["view"]["differences"].as_array().is_some_and(|all| !all.is_empty());
        checks.that("  and inspect says that it differs", differs, &view["view"]["differences"]);
        served.gone(daemon).await?;
    }
    Ok(())
}

/// A name server of the lane's own, until it is dropped; it may be silent.
fn serve_names(netns: &OwnedFd, at: &str, answers: bool) -> Result<Datagrams> {
    let answer = move |asked: &[u8]| {
        let mut answer = asked.to_vec();
        // It is an answer: there is no such name.
        answer.get_mut(2..4)?.copy_from_slice(&[0x81, 0x83]);
        answers.then_some(answer)
    };
    Ok(Datagrams::answer(netns, (at, 53), answer)?)
}

async fn name_servers(checks: &mut Checks, machine: &Machine, daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let config = asks(daemon, "asks", &[OWN[0], OUTSIDE[0], OUTSIDE[1]], &[]);
    let id = client.run_pod(&config).await?;
    let (_, text) = daemon.says(&["network", "inspect", "asks"])?;
    let drawn = ["name server 192.0.2.1", "search lane.example", "options ndots:3"];
    let shown = drawn.iter().all(|word| text.contains(word));
    checks.that("network inspect shows the pod's DNS", shown, text);
    let (here, silent) =
        (serve_names(&machine.own, OWN[0], true)?, serve_names(&machine.outside, "::", false)?);
    let (code, text) = daemon.says(&["network", "check", "asks"])?;
    let line = |start: &str, end: &str| text.lines().any(|l| l.starts_with(start) && l.ends_with(end));
    let told = code == 1
        && line("ok      name server 192.0.2.1 ", "answers NXDOMAIN")
        && line("FAIL    name server 192.0.2.2 ", "does not answer over UDP")
        && line("FAIL    name server 2001:db8::2 ", "does not answer over UDP");
    checks.that("a silent name server is named, and one that answers is not", told, &text);
    drop((here, silent));
    let (_, text) = daemon.says(&["network", "check", "asks"])?;
    let refused = text.contains("nothing listens on UDP port 53 there");
    checks.that("  and one where nobody listens", refused, &text);
    client.remove_pod(&id).await
}

/// Nothing of the network is left, and the next pod makes it anew.
async fn taken_down(checks: &mut Checks, machine: &Machine, daemon: &mut Daemon) -> Result<()> {
    let (code, said) = daemon.says(&["network", "reset"])?;
    checks.that("network reset wants --yes", code == 64 && said.contains("--yes"), said);
    let (code, said) = daemon.says(&["network", "reset", "--yes"])?;
    checks.that("network reset without pods", code == 0, said);
    let left = machine.left().await;
    checks.that("  leaves the machine as it was", left.is_empty(), left.join("; "));
    let (_, text) = daemon.says(&["network", "inspect"])?;
    checks.that("  which inspect does not change", text.contains("not there; it is made for a pod"), text);
    let left = machine.left().await;
    checks.that("  and nothing of it is left still", left.is_empty(), left.join("; "));
    let _names = serve_names(&machine.own, OWN[0], true)?;
    let next = Served::of(daemon, "next", asks(daemon, "next", &[OWN[0]], &[tcp(8080)])).await?;
    checks.note("  the next pod makes all of it anew", answers(&machine.own, next.at(false)?, "next"));
    daemon.kill()?;
    daemon.start().await?;
    let (code, text) = daemon.says(&["network", "check", "next"])?;
    checks.that("  and is well, also after a restart", code == 0, text);
    next.gone(daemon).await
}
