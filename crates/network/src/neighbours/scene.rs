//! Which ways packets of pods go through this machine, and which rules they meet there.

use std::io;
use std::net::IpAddr;

use berth_netlink::nft::Base;
use serde::{Deserialize, Serialize};

use super::packet::{BRIDGE, Hook, INET, Interface, NETDEV, Packet, State, TCP};
use super::walk::{Block, Tables, through};

const UDP: u8 = 17;
const DNS: u16 = 53;
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// What pods need of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    PodToOutside,
    /// By a port of the host.
    OutsideToPod,
    PodToPod,
    /// By a Service or a port of the host.
    PodToPodTranslated,
    /// Names asked of the host, by its resolver.
    PodToHost,
    /// Probes, and ports of the host from itself.
    HostToPod,
}

impl Traffic {
    pub(crate) const ALL: [Self; 6] = [
        Self::PodToOutside,
        Self::OutsideToPod,
        Self::PodToPod,
        Self::PodToPodTranslated,
        Self::PodToHost,
        Self::HostToPod,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::PodToOutside => "from pods to the outside",
            Self::OutsideToPod => "from outside to ports of pods",
            Self::PodToPod => "from pod to pod",
            Self::PodToPodTranslated => "from pod to pod by a Service or a port of the host",
            Self::PodToHost => "from pods to the host (DNS)",
            Self::HostToPod => "from the host to pods",
        }
    }
}

/// Who takes part, of one IP version.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) bridge: Interface,
    /// Without a bridge: what leads to the other pod, while `bridge` leads to the first.
    pub(crate) other: Option<Interface>,
    /// `None`: the host has no address on the bridge.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) pod: IpAddr,
    pub(crate) other_pod: IpAddr,
    /// The interface of the default route and the machine's address there.
    pub(crate) uplink: Option<(Interface, IpAddr)>,
    pub(crate) outside: IpAddr,
    /// What a bridge carries passes the rules of IP too (net.bridge.bridge-nf-call-iptables).
    pub(crate) bridged_is_filtered: bool,
}

/// A place on a packet's way, and the packet as it is there.
pub(crate) struct Stage {
    pub(crate) hook: Hook,
    pub(crate) bridged: bool,
    pub(crate) packet: Packet,
}

impl Scene {
    /// Whether it leads to pods.
    pub(crate) fn is_ours(&self, by: &Interface) -> bool {
        [Some(&self.bridge), self.other.as_ref()].into_iter().flatten().any(|own| own.name == by.name)
    }

    /// Pods' interfaces, with `any` for what differs from pod to pod: the ends of pairs are named by a word and a number.
    pub(crate) fn interfaces(&self, any: char) -> String {
        let name = &self.bridge.name;
        let word = name.trim_end_matches(|c: char| c.is_ascii_hexdigit());
        match &self.other {
            Some(_) if !word.is_empty() => format!("{word}{any}"),
            _ => name.clone(),
        }
    }

    /// For people.
    pub(crate) fn way(&self) -> String {
        let kind = if self.other.is_some() { "interfaces" } else { "bridge" };
        format!("{kind} {}", self.interfaces('*'))
    }

    fn to_other(&self) -> &Interface {
        self.other.as_ref().unwrap_or(&self.bridge)
    }

    fn packet(&self, from: IpAddr, to: IpAddr, port: u16) -> Packet {
        Packet {
            from,
            to,
            protocol: TCP,
            source_port: Some(41_000),
            port: Some(port),
            comes_by: None,
            leaves_by: None,
            state: State::New,
            translated: false,
            local: false,
            mark: [Some(0); 4],
        }
    }

    /// Forwarded from one interface to another, and its answer.
    fn forwarded(&self, first: &Packet, by: &Interface, to: &Interface) -> Vec<Stage> {
        let way = |packet: &Packet, by: &Interface, to: &Interface| {
            let comes = Packet { comes_by: Some(by.clone()), ..packet.clone() };
            let through = Packet { leaves_by: Some(to.clone()), ..comes.clone() };
            let leaves = Packet { comes_by: None, ..through.clone() };
            let stage = |hook, packet| Stage { hook, bridged: false, packet };
            vec![
                stage(Hook::Ingress, comes.clone()),
                stage(Hook::PreRouting, comes),
                stage(Hook::Forward, through),
                stage(Hook::PostRouting, leaves),
            ]
        };
        let mut stages = way(first, by, to);
        stages.extend(way(&answer(first), to, by));
        stages
    }

    fn to_host(&self, packet: &Packet) -> Vec<Stage> {
        let packet = Packet { local: true, ..packet.clone() };
        let by = Packet { comes_by: Some(self.bridge.clone()), ..packet };
        [Hook::PreRouting, Hook::Input].map(|hook| Stage { hook, bridged: false, packet: by.clone() }).into()
    }

    fn of_host(&self, packet: &Packet) -> Vec<Stage> {
        let by = Packet { leaves_by: Some(self.bridge.clone()), ..packet.clone() };
        [Hook::Output, Hook::PostRouting]
            .map(|hook| Stage { hook, bridged: false, packet: by.clone() })
            .into()
    }

    /// Where this traffic meets rules, in its order. Nothing: there is no such traffic here.
    pub(crate) fn stages(&self, traffic: Traffic) -> Vec<Stage> {
        let with_host = |stages: &dyn Fn(IpAddr) -> Vec<Stage>| self.gateway.map(stages).unwrap_or_default();
        match (traffic, &self.uplink) {
            (Traffic::PodToOutside, Some((uplink, own))) => {
                let first = self.packet(self.pod, self.outside, HTTPS);
                let mut stages = self.forwarded(&first, &self.bridge, uplink);
                translate(&mut stages, Some(uplink), *own, true);
                stages
            }
            (Traffic::OutsideToPod, Some((uplink, own))) => {
                let first = Packet { translated: true, ..self.packet(self.outside, self.pod, HTTP) };
                let mut stages = self.forwarded(&first, uplink, &self.bridge);
                translate(&mut stages, Some(uplink), *own, false);
                stages
            }
            (Traffic::PodToOutside | Traffic::OutsideToPod, None) => Vec::new(),
            (Traffic::PodToPod, _) if self.other.is_some() => {
                let first = self.packet(self.pod, self.other_pod, HTTP);
                self.forwarded(&first, &self.bridge, self.to_other())
            }
            (Traffic::PodToPod, _) => {
                let first = self.packet(self.pod, self.other_pod, HTTP);
                let port = |n| Some(Interface { name: format!("vb{n:012x}"), index: 0 });
                let bridged = [first.clone(), answer(&first)].map(|packet| Stage {
                    hook: Hook::Forward,
                    bridged: true,
                    packet: Packet { comes_by: port(1), leaves_by: port(2), ..packet },
                });
                let mut stages: Vec<_> = bridged.into();
                if self.bridged_is_filtered {
                    stages.extend(self.forwarded(&first, &self.bridge, &self.bridge));
                }
                stages
            }
            (Traffic::PodToPodTranslated, _) => {
                let first = Packet { translated: true, ..self.packet(self.pod, self.other_pod, HTTP) };
                self.forwarded(&first, &self.bridge, self.to_other())
            }
            (Traffic::PodToHost, _) => with_host(&|gateway| {
                let first = Packet { protocol: UDP, ..self.packet(self.pod, gateway, DNS) };
                [self.to_host(&first), self.of_host(&answer(&first))].into_iter().flatten().collect()
            }),
            (Traffic::HostToPod, _) => with_host(&|gateway| {
                let first = self.packet(gateway, self.pod, HTTP);
                [self.of_host(&first), self.to_host(&answer(&first))].into_iter().flatten().collect()
            }),
        }
    }
}

fn answer(packet: &Packet) -> Packet {
    Packet {
        from: packet.to,
        to: packet.from,
        source_port: packet.port,
        port: packet.source_port,
        state: State::Established { answer: true },
        comes_by: None,
        leaves_by: None,
        ..packet.clone()
    }
}

/// Before it is routed, what comes in by the uplink still has the machine's own address.
fn translate(stages: &mut [Stage], uplink: Option<&Interface>, own: IpAddr, answers: bool) {
    for stage in stages {
        let early = matches!(stage.hook, Hook::Ingress | Hook::PreRouting);
        let is_answer = stage.packet.state != State::New;
        if early && is_answer == answers && stage.packet.comes_by.as_ref() == uplink {
            stage.packet.to = own;
            stage.packet.local = true;
        }
    }
}

/// The chains that the kernel calls with a packet, in its order.
fn met<'a>(bases: &'a [Base], stage: &'a Stage) -> impl Iterator<Item = &'a Base> {
    let own = stage.packet.family();
    bases.iter().filter(move |base| {
        let family = base.name.family;
        let right = match (stage.bridged, stage.hook) {
            (true, _) => family == BRIDGE,
            (false, Hook::Ingress) => {
                let device = stage.packet.comes_by.as_ref().map(|by| by.name.as_str());
                [NETDEV, INET].contains(&family) && base.devices.iter().any(|d| Some(d.as_str()) == device)
            }
            (false, _) => [INET, own, own | super::LEGACY].contains(&family),
        };
        // Translations drop nothing.
        right && base.hook == stage.hook.number(family) && base.kind != "nat"
    })
}

/// What stops it first: surely if anything does, else what may.
pub(crate) fn blocked<T: Tables>(
    tables: &T,
    bases: &[Base],
    stages: Vec<Stage>,
) -> io::Result<Option<(Block, Stage)>> {
    let mut perhaps = None;
    let mut mark = [Some(0); 4];
    for mut stage in stages {
        // Marks are the packet's, from its first hook to its last.
        let begins = matches!(stage.hook, Hook::Ingress | Hook::Output);
        stage.packet.mark = if begins { [Some(0); 4] } else { mark };
        for base in met(bases, &stage).cloned().collect::<Vec<_>>() {
            match through(tables, &base, &mut stage.packet)? {
                Some(block) if block.sure => return Ok(Some((block, stage))),
                Some(block) if perhaps.is_none() => {
                    let seen = Stage { packet: stage.packet.clone(), ..stage };
                    perhaps = Some((block, seen));
                }
                _ => {}
            }
        }
        mark = stage.packet.mark;
    }
    Ok(perhaps)
}
