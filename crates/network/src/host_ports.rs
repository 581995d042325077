//! Ports of the host that lead to pods: who holds which.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use berth_model::{PortMapping, Protocol};
use berth_netlink::nft::Forward;
use berth_netlink::{Routes, conntrack};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::NetworkError;

/// A port of the host and the pod's port it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// `None`: every address of the host. 0.0.0.0 and ::, as sockets have it: every address of that IP version.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub container_port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        match self.address {
            Some(address) => write!(f, "{protocol} port {} on {address}", self.port),
            None => write!(f, "{protocol} port {}", self.port),
        }
    }
}

/// The mappings that map something, each once. The values passed `berth_plan::validate_sandbox`.
pub(crate) fn wanted(mappings: &[PortMapping]) -> Vec<HostPort> {
    let mut ports: Vec<HostPort> = Vec::new();
    // CRI: a host_port of 0 maps nothing.
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let port = HostPort {
            protocol: mapping.protocol,
            address: mapping.host_ip.parse().ok(),
            port: mapping.host_port,
            container_port: mapping.container_port,
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// Flows of before: to the host itself when the pod comes, to the pod when it goes. Of TCP they end by a reset; a client of UDP
/// and, since both ends of it have well-known ports, of SCTP goes on from the port that it has.
pub(crate) fn forget_flows(pod: &str, addresses: &[IpAddr], ports: &[HostPort]) {
    let lasting = ports.iter().filter(|port| port.protocol != Protocol::Tcp);
    let ports: Vec<conntrack::Port> = lasting.map(|port| (port.number(), port.port)).collect();
    if ports.is_empty() {
        return;
    }
    let own = Routes::open().and_then(|routes| routes.all_addresses());
    match own.and_then(|own| conntrack::forget(addresses, &ports, &own)) {
        Ok(count) => tracing::debug!(pod, count, "flows of before are forgotten"),
        Err(error) => tracing::warn!(
            pod,
            error = &error as &dyn std::error::Error,
            "flows of before are not forgotten; they end 30 s to some minutes after their last packet"
        ),
    }
}

impl HostPort {
    pub(crate) fn number(self) -> u8 {
        match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    fn takes(self, v6: bool) -> bool {
        self.address.is_none_or(|address| address.is_ipv6() == v6)
    }

    /// Two sockets could not be bound so.
    pub(crate) fn conflicts(self, other: Self) -> bool {
        let everywhere = |port: Self| port.address.is_none_or(|address| address.is_unspecified());
        let versions = [false, true].iter().any(|v6| self.takes(*v6) && other.takes(*v6));
        let same = everywhere(self) || everywhere(other) || self.address == other.address;
        (self.protocol, self.port) == (other.protocol, other.port) && versions && same
    }

    /// `loopback6` stands for ::1 (`berth_netlink::nft::Table`).
    pub(crate) fn forwards(self, pod: &[IpAddr], loopback6: Ipv6Addr) -> Result<Vec<Forward>, NetworkError> {
        let address = self.address.filter(|address| !address.is_unspecified());
        let address = match address {
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) => Some(loopback6.into()),
            other => other,
        };
        let to = pod.iter().filter(|ip| self.takes(ip.is_ipv6()));
        let found: Vec<_> = to
            .map(|ip| Forward {
                protocol: self.number(),
                address,
                port: self.port,
                to: (*ip, self.container_port),
            })
            .collect();
        match found.is_empty() {
            true => Err(NetworkError::NoSuchVersion { port: self }),
            false => Ok(found),
        }
    }

    /// Refuses a port that a process of the host listens on: its clients would be led away from it.
    pub(crate) fn is_free(self) -> Result<(), NetworkError> {
        let addresses: Vec<IpAddr> = match self.address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        for address in addresses {
            match self.try_bind(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(NetworkError::InUse { port: self });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    tracing::warn!(port = %self, "the host does not have this address now");
                }
                // A kernel without the protocol has no process that uses it.
                Err(error) => tracing::debug!(port = %self, %error, "whether a process listens is not known"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn try_bind(self, address: IpAddr) -> io::Result<()> {
        use nix::sys::socket::SockProtocol;
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let (kind, protocol) = match self.protocol {
            Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
            Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
            Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
        };
        let probe = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
        if address.is_ipv6() {
            setsockopt(&probe, sockopt::Ipv6V6Only, &true)?;
        }
        if self.protocol != Protocol::Udp {
            // Connections that linger are nobody's (socket(7)); a listener still refuses.
            setsockopt(&probe, sockopt::ReuseAddr, &true)?;
        }
        let at = SockaddrStorage::from(SocketAddr::new(address, self.port));
        use std::os::fd::AsRawFd as _;
        Ok(bind(probe.as_raw_fd(), &at)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, address: &str, port: u16) -> HostPort {
        HostPort { protocol, address: address.parse().ok(), port, container_port: 80 }
    }

    #[test]
    fn conflicts_are_those_of_sockets() {
        use Protocol::{Tcp, Udp};
        let table = [
            (port(Tcp, "", 80), port(Tcp, "", 80), true),
            (port(Tcp, "", 80), port(Tcp, "", 81), false),
            (port(Tcp, "", 80), port(Udp, "", 80), false),
            (port(Tcp, "", 80), port(Tcp, "10.0.0.1", 80), true),
            (port(Tcp, "0.0.0.0", 80), port(Tcp, "10.0.0.1", 80), true),
            (port(Tcp, "0.0.0.0", 80), port(Tcp, "::", 80), false),
            (port(Tcp, "", 80), port(Tcp, "::", 80), true),
            (port(Tcp, "10.0.0.2", 80), port(Tcp, "10.0.0.1", 80), false),
            (port(Tcp, "::1", 80), port(Tcp, "127.0.0.1", 80), false),
        ];
        for (a, b, expected) in table {
            assert_eq!((a.conflicts(b), b.conflicts(a)), (expected, expected), "{a}, {b}");
        }
    }

    #[test]
    fn a_port_leads_to_the_addresses_of_its_version() {
        let pod = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let stand_in: Ipv6Addr = "fd77::1".parse().unwrap();
        let to = |address| port(Protocol::Tcp, address, 80).forwards(&pod, stand_in).unwrap();
        assert_eq!(to("").len(), 2);
        assert_eq!(to("0.0.0.0"), [Forward { protocol: 6, address: None, port: 80, to: (pod[0], 80) }]);
        assert_eq!(to("2001:db8::1")[0].to, (pod[1], 80));
        assert_eq!(to("::1")[0].address, Some(stand_in.into()));
        let none =
            port(Protocol::Tcp, "2001:db8::1", 80).forwards(&pod[..1], stand_in).unwrap_err().to_string();
        assert!(none.contains("TCP port 80 on 2001:db8::1"), "{none}");
    }

    #[test]
    fn what_maps_nothing_is_left_out() {
        let map = |host_port, host_ip: &str| PortMapping {
            host_port,
            container_port: 80,
            host_ip: host_ip.into(),
            ..Default::default()
        };
        let found = wanted(&[map(0, ""), map(80, ""), map(80, ""), map(81, "127.0.0.1")]);
        assert_eq!(found, [port(Protocol::Tcp, "", 80), port(Protocol::Tcp, "127.0.0.1", 81)]);
    }
}
