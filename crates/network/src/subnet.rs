use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use berth_netlink::Route;
use serde::{Deserialize, Serialize};

use crate::{NetworkError, names};

/// A network for pods: IPv4 from /8 to /29, IPv6 from /48 to /124.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    v6: bool,
    network: u128,
    prefix: u8,
}

/// More pods than this fit on no host; it bounds the search in a wide IPv6 network.
const POOL: u128 = 1 << 24;

pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

pub(crate) fn address(v6: bool, bits: u128) -> IpAddr {
    if v6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() }
}

impl Subnet {
    const fn width(v6: bool) -> u8 {
        if v6 { 128 } else { 32 }
    }

    /// The bits that differ from address to address.
    fn rest(self) -> u128 {
        match Self::width(self.v6) - self.prefix {
            128.. => u128::MAX,
            free => (1 << free) - 1,
        }
    }

    fn address(self, bits: u128) -> IpAddr {
        address(self.v6, bits)
    }

    pub fn is_ipv6(self) -> bool {
        self.v6
    }

    pub fn network(self) -> IpAddr {
        self.address(self.network)
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address is the bridge's.
    pub fn gateway(self) -> IpAddr {
        self.address(self.network + 1)
    }

    /// Addresses for pods: without network, gateway and, of IPv4, broadcast.
    pub(crate) fn hosts(self) -> std::ops::Range<u128> {
        let last = self.network | self.rest();
        let end = if self.v6 { last + 1 } else { last };
        self.network + 2..end.min(self.network + POOL)
    }

    pub(crate) fn host(self, bits: u128) -> IpAddr {
        self.address(bits)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6 && bits(address) & !self.rest() == self.network
    }

    fn overlaps(self, route: &Route) -> bool {
        // The default route leads everywhere and owns nothing.
        if route.prefix == 0 || route.network.is_ipv6() != self.v6 {
            return false;
        }
        let narrow = Self { v6: self.v6, network: 0, prefix: route.prefix.min(self.prefix) };
        bits(route.network) & !narrow.rest() == self.network & !narrow.rest()
    }
}

impl FromStr for Subnet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("{text:?} is no network of IPv4 from /8 to /29 or of IPv6 from /48 to /124");
        let (address, prefix) = text.split_once('/').ok_or_else(fail)?;
        let address: IpAddr = address.parse().map_err(|_| fail())?;
        let v6 = address.is_ipv6();
        let good = |p: &u8| if v6 { (48..=124).contains(p) } else { (8..=29).contains(p) };
        let prefix: u8 = prefix.parse().ok().filter(good).ok_or_else(fail)?;
        let subnet = Self { v6, network: bits(address), prefix };
        Ok(Self { network: subnet.network & !subnet.rest(), ..subnet })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// The second bytes of what instances choose from, 10.85.0.0/16 first. Not chosen is what others have without a look at the host's
/// routes, and maybe later than Berth: 10.88.0.0/16 is Podman's, 10.96.0.0/12 that of Services by kubeadm. A Service within a
/// pod's own network could not be reached from there, since the pod asks for it on its link and not by the host.
const SECONDS: [u32; 10] = [85, 86, 87, 89, 90, 91, 92, 93, 94, 95];

/// The default instance has the first of [`SECONDS`] whole; others a /24 of the rest that their name points at. Those that the
/// host has a route to are passed over.
pub(crate) fn choose(instance: &str, taken: &[Route]) -> Result<Subnet, NetworkError> {
    let free = |subnet: &Subnet| !taken.iter().any(|route| subnet.overlaps(route));
    choices(instance).into_iter().find(free).ok_or(NetworkError::NoSubnet)
}

/// In the order that an instance would have them.
fn choices(instance: &str) -> Vec<Subnet> {
    let v4 = |network: u32, prefix| Subnet { v6: false, network: network.into(), prefix };
    if instance == "berth" {
        return SECONDS.map(|second| v4(10 << 24 | second << 16, 16)).into();
    }
    let narrow = |second: &u32| {
        let second = *second;
        (0..256).map(move |third| v4(10 << 24 | second << 16 | third << 8, 24))
    };
    let mut all: Vec<Subnet> = SECONDS[1..].iter().flat_map(narrow).collect();
    let start = names::hash(instance) % all.len() as u64;
    all.rotate_left(start as usize);
    all
}

/// A /64 of the unique local addresses that the name points at; the last is that of [`names::loopback6`].
pub(crate) fn choose6(instance: &str, taken: &[Route]) -> Result<Subnet, NetworkError> {
    let global = names::global(instance);
    let unique = |n: u128| Subnet { v6: true, network: 0xfd << 120 | global << 80 | n << 64, prefix: 64 };
    let free = |subnet: &Subnet| !taken.iter().any(|route| subnet.overlaps(route));
    (0..0xffff).map(unique).find(free).ok_or(NetworkError::NoSubnet)
}

/// What must be the same after a restart, and what is put back at a reset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Saved {
    /// At most one of each IP version; the first is that of a pod's primary address.
    pub(crate) subnets: Vec<Subnet>,
    /// The kubelet named them: they count before those of the settings.
    pub(crate) by_kubelet: bool,
    /// We turned forwarding on.
    pub(crate) forward_was_off: bool,
    pub(crate) forward6_was_off: bool,
    /// Interfaces that shall go on learning routes although the host forwards IPv6; they had `accept_ra` 1.
    pub(crate) learning: Vec<String>,
    /// Who needs it on: whose reset comes last puts it back.
    pub(crate) forwards: BTreeSet<Forwards>,
}

/// Whose pods' packets the host passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Forwards {
    Own,
    Plugins,
}

fn place(state: &Path) -> PathBuf {
    state.join("network.json")
}

impl Saved {
    /// A file that cannot be read is as good as none: the subnets are then chosen anew.
    pub(crate) fn load(state: &Path) -> Self {
        let bytes = std::fs::read(place(state)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Changes what is there: Berth's own network and the plugins both turn forwarding on.
    pub(crate) fn change(state: &Path, change: impl FnOnce(&mut Self)) -> Result<(), NetworkError> {
        Self::exclusively(state, |saved| {
            change(saved.value());
            Ok(())
        })
    }

    /// Reads, and lets nobody else change it before `work` has ended.
    pub(crate) fn exclusively<T>(
        state: &Path,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _one = ONE.lock();
        let before = Self::load(state);
        let mut draft = Draft { value: before.clone(), before, state };
        let done = work(&mut draft)?;
        draft.keep()?;
        Ok(done)
    }

    fn store(&self, state: &Path) -> Result<(), NetworkError> {
        let path = place(state);
        // Nothing to keep is no file.
        let write = || match *self == Self::default() {
            true => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            false => {
                let beside = path.with_extension("json.tmp");
                std::fs::write(&beside, serde_json::to_vec(self)?)?;
                std::fs::rename(&beside, &path)
            }
        };
        write().map_err(|source| NetworkError::Save { path: path.clone(), source })
    }
}

/// A change being made.
pub(crate) struct Draft<'a> {
    before: Saved,
    value: Saved,
    state: &'a Path,
}

impl Draft<'_> {
    pub(crate) fn value(&mut self) -> &mut Saved {
        &mut self.value
    }

    /// On disk from here on, also before the rest is done.
    pub(crate) fn keep(&mut self) -> Result<(), NetworkError> {
        if self.value != self.before {
            self.value.store(self.state)?;
            self.before = self.value.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, network, gateway) in [
            ("10.85.3.7/16", "10.85.0.0/16", "10.85.0.1"),
            ("fd00:1:2:3::9/64", "fd00:1:2:3::/64", "fd00:1:2:3::1"),
        ] {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(
                (subnet.to_string().as_str(), subnet.gateway().to_string().as_str()),
                (network, gateway)
            );
        }
        for bad in ["10.0.0.0", "10.0.0.0/30", "10.0.0.0/0", "x/16", "fd00::/47", "fd00::/125", "fd00::/200"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        let small: Subnet = "fd00::/124".parse().unwrap();
        assert_eq!(small.hosts().count(), 14);
        assert!(small.contains("fd00::f".parse().unwrap()) && !small.contains("fd00::10".parse().unwrap()));
    }

    #[test]
    fn taken_networks_are_passed_over() {
        let taken = |text: &str| {
            let (network, prefix) = text.split_once('/').unwrap();
            [Route { network: network.parse().unwrap(), prefix: prefix.parse().unwrap(), interface: 1 }]
        };
        assert_eq!(choose("berth", &[]).unwrap().to_string(), "10.85.0.0/16");
        assert_eq!(choose("berth", &taken("0.0.0.0/0")).unwrap().to_string(), "10.85.0.0/16");
        assert_eq!(choose("berth", &taken("::/0")).unwrap().to_string(), "10.85.0.0/16");
        assert_eq!(choose("berth", &taken("10.85.4.0/24")).unwrap().to_string(), "10.86.0.0/16");
        assert!(choose("berth", &taken("10.0.0.0/8")).is_err());
        for choose in [choose, choose6] {
            let own = choose("x", &[]).unwrap();
            assert_ne!(choose("x", &taken(&own.to_string())).unwrap(), own);
            assert_ne!(choose("y", &[]).unwrap(), own);
        }
        assert!(choose6("x", &[]).unwrap().to_string().starts_with("fd"));
    }

    #[test]
    fn nobody_chooses_what_others_count_on() {
        let route =
            |(network, prefix): (&str, u8)| Route { network: network.parse().unwrap(), prefix, interface: 1 };
        let others = [
            ("10.96.0.0", 12),   // Services, kubeadm
            ("10.244.0.0", 16),  // pods, flannel and kubeadm's examples
            ("10.42.0.0", 16),   // pods, k3s
            ("10.43.0.0", 16),   // Services, k3s
            ("192.168.0.0", 16), // pods, Calico
            ("172.17.0.0", 16),  // Docker
            ("10.88.0.0", 16),   // Podman
        ]
        .map(route);
        for instance in ["berth", "x"] {
            let all = choices(instance);
            for subnet in &all {
                let met = others.iter().find(|other| subnet.overlaps(other));
                assert!(met.is_none(), "{instance} may choose {subnet}, of {met:?}");
            }
            assert_eq!(all.len(), if instance == "berth" { 10 } else { 9 * 256 });
        }
    }
}
