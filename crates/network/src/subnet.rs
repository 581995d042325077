use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{NetworkError, names};

/// An IPv4 network for pods: /8 to /29.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address is the bridge's.
    pub fn gateway(self) -> Ipv4Addr {
        (self.network + 1).into()
    }

    /// Addresses for pods: without network, gateway and broadcast.
    pub(crate) fn hosts(self) -> std::ops::Range<u32> {
        self.network + 2..self.network | !self.mask()
    }

    fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        // The default route leads everywhere and owns nothing.
        if prefix == 0 {
            return false;
        }
        let wider = prefix.min(self.prefix);
        let mask = u32::MAX << (32 - u32::from(wider));
        u32::from(network) & mask == self.network & mask
    }
}

impl FromStr for Subnet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("{text:?} is no IPv4 network with a prefix of 8 to 29");
        let (address, prefix) = text.split_once('/').ok_or_else(fail)?;
        let address: Ipv4Addr = address.parse().map_err(|_| fail())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=29).contains(p)).ok_or_else(fail)?;
        let subnet = Self { network: u32::from(address), prefix };
        Ok(Self { network: subnet.network & subnet.mask(), prefix })
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

/// The default instance has 10.85.0.0/16; others a /24 of 10.86.0.0 to 10.99.0.0 that their name points at. Those that
/// the host has a route to are passed over.
pub(crate) fn choose(instance: &str, taken: &[(Ipv4Addr, u8, u32)]) -> Result<Subnet, NetworkError> {
    let free = |subnet: &Subnet| !taken.iter().any(|(network, prefix, _)| subnet.overlaps(*network, *prefix));
    if instance == "berth" {
        let wide = (85..=99).map(|second| Subnet { network: 10 << 24 | second << 16, prefix: 16 });
        return wide.into_iter().find(free).ok_or(NetworkError::NoSubnet);
    }
    const CHOICES: u32 = 14 * 256;
    let start = (names::hash(instance) % u64::from(CHOICES)) as u32;
    let narrow = |n: u32| {
        let n = (start + n) % CHOICES;
        Subnet { network: 10 << 24 | (86 + n / 256) << 16 | (n % 256) << 8, prefix: 24 }
    };
    (0..CHOICES).map(narrow).find(free).ok_or(NetworkError::NoSubnet)
}

/// What must be the same after a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Saved {
    pub(crate) subnet: Option<Subnet>,
    /// We turned forwarding on.
    pub(crate) forward_was_off: bool,
}

fn place(state: &Path) -> PathBuf {
    state.join("network.json")
}

impl Saved {
    /// A file that cannot be read is as good as none: the subnet is then chosen anew.
    pub(crate) fn load(state: &Path) -> Self {
        let bytes = std::fs::read(place(state)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub(crate) fn store(&self, state: &Path) -> Result<(), NetworkError> {
        let path = place(state);
        let write = || {
            let beside = path.with_extension("json.tmp");
            std::fs::write(&beside, serde_json::to_vec(self)?)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|source| NetworkError::Save { path: path.clone(), source })
    }

    pub(crate) fn remove(state: &Path) -> Result<(), NetworkError> {
        match std::fs::remove_file(place(state)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(NetworkError::Save { path: place(state), source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let subnet: Subnet = "10.85.3.7/16".parse().unwrap();
        assert_eq!(
            (subnet.to_string().as_str(), subnet.gateway()),
            ("10.85.0.0/16", Ipv4Addr::new(10, 85, 0, 1))
        );
        for bad in ["10.0.0.0", "10.0.0.0/30", "10.0.0.0/0", "x/16", "fd00::/64"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn taken_networks_are_passed_over() {
        let taken = |network: [u8; 4], prefix| vec![(Ipv4Addr::from(network), prefix, 1)];
        assert_eq!(choose("berth", &[]).unwrap().to_string(), "10.85.0.0/16");
        assert_eq!(choose("berth", &taken([0, 0, 0, 0], 0)).unwrap().to_string(), "10.85.0.0/16");
        assert_eq!(choose("berth", &taken([10, 85, 4, 0], 24)).unwrap().to_string(), "10.86.0.0/16");
        assert!(choose("berth", &taken([10, 0, 0, 0], 8)).is_err());
        let own = choose("x", &[]).unwrap();
        assert_ne!(choose("x", &taken(own.network().octets(), 24)).unwrap(), own);
        assert_ne!(choose("y", &[]).unwrap(), own);
    }
}
