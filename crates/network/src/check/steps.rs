//! The steps in their order.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use berth_netlink::nft::{HeldState, Reader};
use berth_netlink::{Reach, Routes};
use berth_sys::netns::run_in;

use super::probe::{Answer, ping, reach, resolve};
use super::{Clock, Step, Subject, dns, ports, version};
use crate::host;
use crate::inspect::pod::{Inside, host_end};

/// The table is looked at whenever a pod comes.
pub(super) const TABLE_HELPS: &str = "restart the daemon: it makes the table anew with all that pods have";
/// Name servers beyond these are asked by no resolver (resolv.conf(5) has three).
const NAMESERVERS: usize = 8;
/// Pods of the bridge that are asked before it is said that none answers.
const OTHERS: usize = 3;

/// What an earlier step found to be broken, for each IP version: what lies behind is not tried.
#[derive(Debug, Default)]
struct Way([Option<String>; 2]);

impl Way {
    fn blocked(&self, v6: bool) -> Option<&String> {
        self.0[usize::from(v6)].as_ref()
    }

    fn block(&mut self, v6: bool, why: &str) {
        self.0[usize::from(v6)].get_or_insert_with(|| why.to_owned());
    }

    fn block_all(&mut self, why: &str) {
        self.block(false, why);
        self.block(true, why);
    }
}

/// Tries the pod's network. Blocking, for at most about half a minute.
pub fn check_pod(subject: &Subject<'_>) -> Vec<Step> {
    let clock = Clock::new();
    let (mut steps, mut way) = (vec![namespace(subject)], Way::default());
    let inside = Inside::look(subject.netns, &subject.recorded.interface);
    let routes = Routes::open();
    let (inside, routes) = match (inside, routes) {
        (Ok(inside), Ok(routes)) => (inside, routes),
        (Err(error), _) | (_, Err(error)) => {
            steps.push(Step::failed("interface in the pod", format!("it cannot be looked at: {error}"), ""));
            return steps;
        }
    };
    steps.push(pod_end(subject, &inside, &mut way));
    steps.push(host_side(subject, &inside, &routes, &mut way));
    steps.extend(addresses(subject, &inside, &mut way));
    steps.extend(default_routes(subject, &inside, &mut way));
    let versions: Vec<bool> = [false, true].into_iter().filter(|v6| has_version(subject, *v6)).collect();
    for v6 in &versions {
        steps.push(gateway(subject, &inside, &routes, *v6, &mut way, clock));
    }
    for v6 in &versions {
        steps.push(other_pod(subject, *v6, &way, clock));
    }
    let own = ports::own_addresses(&routes).unwrap_or_default();
    for v6 in &versions {
        steps.push(to_host(subject, *v6, &own, &way, clock));
    }
    steps.extend(nameservers(subject, &way, clock));
    steps.extend(ports::all(subject, &own, clock));
    steps.push(masquerade(subject, &versions));
    steps
}

fn has_version(subject: &Subject<'_>, v6: bool) -> bool {
    subject.recorded.addresses.iter().any(|ip| ip.is_ipv6() == v6)
}

fn namespace(subject: &Subject<'_>) -> Step {
    let name = "network namespace";
    let inode = |path: String| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let held = inode(format!("/proc/self/fd/{}", subject.netns.as_raw_fd()));
    match (inode(subject.path.to_owned()), held) {
        (Ok(at), Ok(held)) if at == held => Step::ok(name, format!("{}, inode {}", subject.path, at.1)),
        (Ok(_), _) => Step::failed(
            name,
            format!("{} is another namespace than the pod's", subject.path),
            "remove the pod; its next one gets a new namespace",
        ),
        (Err(error), _) => Step::failed(
            name,
            format!("{}: {error}", subject.path),
            "remove the pod; its next one gets a new namespace",
        ),
    }
}

fn pod_end(subject: &Subject<'_>, inside: &Inside, way: &mut Way) -> Step {
    let interface = &subject.recorded.interface;
    let name = "interface in the pod";
    let Some(link) = &inside.link else {
        way.block_all("the pod has no interface");
        return Step::failed(
            name,
            format!("there is no {interface}"),
            "remove the pod; its next one gets a new interface",
        );
    };
    if !link.is_up {
        way.block_all("the interface in the pod is down");
        let helps = format!("nsenter --net={} ip link set {interface} up", subject.path);
        return Step::failed(name, format!("{interface} is down"), helps);
    }
    Step::ok(name, format!("{interface} is up, {}, MTU {}", link.mac(), link.mtu))
}

fn host_side(subject: &Subject<'_>, inside: &Inside, routes: &Routes, way: &mut Way) -> Step {
    let (name, recorded) = ("host's end", subject.recorded);
    let made_anew = "remove the pod; its next one gets new interfaces";
    let found = (|| -> io::Result<Result<String, (String, String)>> {
        let Some(link) = host_end(routes, inside.link.as_ref(), recorded)? else {
            return Ok(match &recorded.host_interface {
                Some(wanted) => Err((format!("{wanted} is not there"), made_anew.into())),
                None => Ok(String::new()),
            });
        };
        if !link.is_up {
            let helps = format!("ip link set {} up", link.name);
            return Ok(Err((format!("{} is down", link.name), helps)));
        }
        let pair = inside.link.as_ref().and_then(|inside| inside.peer);
        if pair.is_some_and(|peer| peer != link.index) {
            let found = format!("{} is not the other end of {}", link.name, recorded.interface);
            return Ok(Err((found, made_anew.into())));
        }
        let Some(bridge) = &recorded.bridge else { return Ok(Ok(format!("{} is up", link.name))) };
        let Some(found) = routes.link(bridge)? else {
            let helps = "restart the daemon, which makes the bridge anew; then remove the pod: its interface was cut off";
            return Ok(Err((format!("bridge {bridge} is not there"), helps.into())));
        };
        if link.master != Some(found.index) {
            let helps = format!("ip link set {} master {bridge}", link.name);
            return Ok(Err((format!("{} is no port of bridge {bridge}", link.name), helps)));
        }
        if !found.is_up {
            return Ok(Err((format!("bridge {bridge} is down"), format!("ip link set {bridge} up"))));
        }
        Ok(Ok(format!("{} is up and a port of bridge {bridge}, which is up", link.name)))
    })();
    match found {
        Ok(Ok(text)) if text.is_empty() => {
            Step::skipped(name, "the pod's interface has no other end on this host")
        }
        Ok(Ok(text)) => Step::ok(name, text),
        Ok(Err((text, helps))) => {
            way.block_all(&text);
            Step::failed(name, text, helps)
        }
        Err(error) => {
            way.block_all("the host's end is not known");
            Step::failed(name, format!("it cannot be looked at: {error}"), "")
        }
    }
}

fn addresses(subject: &Subject<'_>, inside: &Inside, way: &mut Way) -> Vec<Step> {
    let interface = &subject.recorded.interface;
    let one = |ip: &IpAddr| {
        let name = format!("{} address", version(ip.is_ipv6()));
        if inside.has(*ip) {
            return Step::ok(name, format!("{interface} has {ip}"));
        }
        if inside.link.is_none() {
            return Step::skipped(name, "the pod has no interface");
        }
        way.block(ip.is_ipv6(), &format!("the pod has lost {ip}"));
        let helps = format!(
            "remove the pod, its next one gets an address; or nsenter --net={} ip address add {ip}/PREFIX dev {interface}",
            subject.path
        );
        Step::failed(name, format!("{interface} has lost {ip}"), helps)
    };
    subject.recorded.addresses.iter().map(one).collect()
}

fn default_routes(subject: &Subject<'_>, inside: &Inside, way: &mut Way) -> Vec<Step> {
    let mut steps = Vec::new();
    for gateway in &subject.recorded.gateways {
        let v6 = gateway.is_ipv6();
        let name = format!("{} route", version(v6));
        if let Some(why) = way.blocked(v6) {
            // The kernel takes the routes of an address, or of an interface, along.
            steps.push(Step::skipped(name, why.clone()));
            continue;
        }
        let helps = || {
            let family = if v6 { "-6 " } else { "" };
            format!("nsenter --net={} ip {family}route replace default via {gateway}", subject.path)
        };
        match inside.default_path(v6).map(|path| path.gateway) {
            Some(Some(by)) if by == *gateway => steps.push(Step::ok(name, format!("default by {by}"))),
            Some(Some(other)) => {
                let found = format!("default by {other}, not by {gateway}");
                way.block(v6, &found);
                steps.push(Step::failed(name, found, helps()));
            }
            _ => {
                let found = format!("the pod has no default route by {gateway}");
                way.block(v6, &found);
                steps.push(Step::failed(name, found, helps()));
            }
        }
    }
    steps
}

/// What a probe says to whoever reads it, or why there was none.
macro_rules! patience {
    ($way:expr, $v6:expr, $clock:expr, $name:expr) => {{
        if let Some(why) = $way.blocked($v6) {
            return Step::skipped($name, why.clone());
        }
        match $clock.next() {
            Some(patience) => patience,
            None => return Step::skipped($name, "there is no time left"),
        }
    }};
}

fn gateway(
    subject: &Subject<'_>,
    inside: &Inside,
    routes: &Routes,
    v6: bool,
    way: &mut Way,
    clock: Clock,
) -> Step {
    let name = format!("{} gateway", version(v6));
    let patience = patience!(way, v6, clock, name);
    let path = inside.default_path(v6).and_then(|path| Some((path.gateway?, path.interface)));
    let Some((to, interface)) = path else { return Step::skipped(name, "the pod has no gateway") };
    let asked = run_in(subject.netns, || resolve(&Routes::open()?, to, interface, patience));
    match asked {
        Ok(Reach::Answered { .. }) => Step::ok(name, format!("{to} says where it is")),
        // Nobody has to answer for it, so that it is looked for.
        Ok(Reach::Fixed) if bridge_has(subject, routes, to) => {
            Step::ok(name, format!("{to} is known without asking"))
        }
        Ok(reach) => {
            let bridge = subject.recorded.bridge.as_deref().unwrap_or("the host");
            let found = match reach {
                Reach::Fixed => format!("{bridge} has lost {to}"),
                _ => format!("{to} does not say where it is"),
            };
            way.block(v6, &found);
            match of_whom(routes, to) {
                Ok(Some(name_of)) => Step::failed(
                    name,
                    format!("{found}, though {name_of} has it"),
                    format!("look at what {bridge} lets through: bridge link, nft list ruleset bridge"),
                ),
                _ => Step::failed(
                    name,
                    format!("{found}: no interface of the host has it"),
                    format!("restart the daemon, or ip address add {to}/PREFIX dev {bridge}"),
                ),
            }
        }
        Err(error) => {
            let found = format!("{to} cannot be asked: {error}");
            way.block(v6, &found);
            Step::failed(name, found, "")
        }
    }
}

/// Whether the pod's bridge has an address; one that is not known, or cannot be looked at, has lost nothing.
fn bridge_has(subject: &Subject<'_>, routes: &Routes, ip: IpAddr) -> bool {
    let Some(bridge) = &subject.recorded.bridge else { return true };
    let found = routes.index(bridge).and_then(|index| match index {
        Some(index) => Ok(routes.addresses(index)?.iter().any(|(has, _)| *has == ip)),
        None => Ok(false),
    });
    found.unwrap_or(true)
}

/// The interface of the host that has an address.
fn of_whom(routes: &Routes, ip: IpAddr) -> io::Result<Option<String>> {
    for link in routes.all_links()? {
        if routes.addresses(link.index)?.iter().any(|(has, _)| *has == ip) {
            return Ok(Some(link.name));
        }
    }
    Ok(None)
}

fn other_pod(subject: &Subject<'_>, v6: bool, way: &Way, clock: Clock) -> Step {
    let name = format!("{} to another pod", version(v6));
    let of_version = |ips: &[IpAddr]| ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
    let others = subject.others.iter().filter_map(|(name, ips)| Some((name, of_version(ips)?)));
    let others: Vec<(&String, IpAddr)> = others.take(OTHERS).collect();
    if others.is_empty() {
        return Step::skipped(name, "there is no other pod on its bridge");
    }
    let mut silent = Vec::new();
    for (pod, ip) in &others {
        let patience = patience!(way, v6, clock, name);
        match run_in(subject.netns, || ping(*ip, patience / 3)) {
            Ok(true) if silent.is_empty() => return Step::ok(name, format!("{pod} answers at {ip}")),
            Ok(true) => {
                return Step::ok(name, format!("{pod} answers at {ip}, but not {}", silent.join(", ")));
            }
            Ok(false) => silent.push(format!("{pod} at {ip}")),
            Err(error) => silent.push(format!("{pod} at {ip} ({error})")),
        }
    }
    Step::failed(
        name,
        format!("no answer of {}", silent.join(", ")),
        "berth network check of that pod, and what others' rules stop, below",
    )
}

fn to_host(subject: &Subject<'_>, v6: bool, own: &[IpAddr], way: &Way, clock: Clock) -> Step {
    let name = format!("{} to the host", version(v6));
    let of_version = |ips: &[IpAddr]| ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
    let Some(to) = of_version(own).or_else(|| of_version(&subject.recorded.gateways)) else {
        return Step::skipped(name, "no address of the host is known");
    };
    let patience = patience!(way, v6, clock, name);
    match run_in(subject.netns, || reach(to, patience)) {
        Ok(Some(Answer::Echo)) => Step::ok(name, format!("{to} answers")),
        Ok(Some(Answer::Tcp)) => Step::ok(name, format!("{to} answers to connections, not to pings")),
        Ok(None) => Step::failed(name, format!("{to} does not answer"), "see what others' rules stop, below"),
        Err(error) => Step::failed(name, format!("{to}: {error}"), "see what others' rules stop, below"),
    }
}

fn nameservers(subject: &Subject<'_>, way: &Way, clock: Clock) -> Vec<Step> {
    if subject.nameservers.is_empty() {
        return vec![Step::skipped("name server", "the pod's resolv.conf has none")];
    }
    let one = |server: &IpAddr| {
        let name = format!("name server {server}");
        let patience = patience!(way, server.is_ipv6(), clock, name);
        let helps = match server.is_loopback() {
            true => {
                "in a pod this is the pod itself: give it the address of a server that pods reach".to_owned()
            }
            false => format!("see whether {server} is up and lets pods ask; the pod's resolv.conf names it"),
        };
        match run_in(subject.netns, || dns::ask(*server, patience)) {
            Ok(answer) => Step::ok(name, answer),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Step::failed(name, "does not answer over UDP", helps)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Step::failed(name, "nothing listens on UDP port 53 there", helps)
            }
            Err(error) => Step::failed(name, format!("cannot be asked: {error}"), helps),
        }
    };
    subject.nameservers.iter().take(NAMESERVERS).map(one).collect()
}

/// Whether what the pod sends to the outside bears the host's address, and is passed on at all.
fn masquerade(subject: &Subject<'_>, versions: &[bool]) -> Step {
    let name = "masquerade";
    let forwarding = host::Forwarding::open().is_on();
    if let Some(v6) = versions.iter().find(|v6| !forwarding[usize::from(**v6)]) {
        let key = if *v6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
        let found = format!("the host passes no {} packets on", version(*v6));
        return Step::failed(name, found, format!("sysctl -w {key}=1"));
    }
    let Some(rules) = &subject.recorded.rules else {
        return Step::skipped(name, "its rules are another program's");
    };
    let held = Reader::open().and_then(|reader| {
        let link = reader.held(&rules.table, &rules.pod, rules.link.as_deref())?;
        Ok((link, reader.standing(&rules.table)?))
    });
    let (held, standing) = match held {
        Ok(found) => found,
        Err(error) => return Step::failed(name, format!("table {}: {error}", rules.table), ""),
    };
    let Some(standing) = standing else {
        return Step::failed(name, format!("nf_tables table {} is not there", rules.table), TABLE_HELPS);
    };
    // Ports have steps of their own.
    let own = held.iter().filter(|one| one.state != HeldState::There && !is_port(one.set));
    let missing: Vec<String> =
        own.map(|one| format!("{} is not in set {} of table {}", one.text, one.set, rules.table)).collect();
    if !missing.is_empty() {
        return Step::failed(name, missing.join("; "), TABLE_HELPS);
    }
    if standing.translating == 0 {
        return Step::failed(name, format!("table {} has no rules any more", rules.table), TABLE_HELPS);
    }
    match rules.pod.masquerade {
        true => Step::ok(name, format!("its addresses are in table {}", rules.table)),
        false => Step::skipped(name, "the configuration does not ask for it"),
    }
}

fn is_port(set: &str) -> bool {
    set.starts_with("ports") || set.starts_with("bound")
}
