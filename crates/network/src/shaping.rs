//! Rates: what a pod receives waits at the host's end of its interface; what it sends is led through an interface of its own
//! (ifb), since only what is sent can wait.

use std::io;

use berth_cni::Bandwidth;
use berth_netlink::{Link, Rate, Routes};
use sha2::{Digest as _, Sha512};

/// A pod's limits in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    receives: Option<Rate>,
    sends: Option<Rate>,
}

impl Limits {
    /// Nothing without a rate; a rate without a burst lets nothing through.
    pub(crate) fn new(asked: &Bandwidth) -> Result<Option<Self>, String> {
        let rate = |what: &str, rate: u64, burst: u64| match (rate, burst) {
            (0, 0) => Ok(None),
            (0, _) | (_, 0) => Err(format!("{what}: a rate and a burst go together")),
            // Less than a packet would never come through.
            (rate, burst) => Ok(Some(Rate {
                bytes: (rate / 8).max(1),
                burst: u32::try_from(burst / 8).unwrap_or(u32::MAX).max(2048),
            })),
        };
        let receives = rate("ingress", asked.ingress_rate, asked.ingress_burst)?;
        let sends = rate("egress", asked.egress_rate, asked.egress_burst)?;
        Ok((receives.is_some() || sends.is_some()).then_some(Self { receives, sends }))
    }

    pub(crate) fn receives(&self) -> Option<Rate> {
        self.receives
    }

    pub(crate) fn sends(&self) -> Option<Rate> {
        self.sends
    }
}

/// The name that the `bandwidth` program gives: bwp and what fits of SHA-512.
pub(crate) fn ifb_name(of: &str) -> String {
    let hash = Sha512::digest(of.as_bytes());
    let digits: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("bwp{digits}")
}

/// Gives the interface that what the pod sends is led through, if there is a limit to that.
pub(crate) fn apply(routes: &Routes, host: &Link, limits: &Limits, name: &str) -> io::Result<Option<Link>> {
    if let Some(rate) = limits.receives {
        routes.limit(host.index, rate)?;
    }
    let Some(rate) = limits.sends else { return Ok(None) };
    if routes.index(name)?.is_none() {
        routes.add_ifb(name, host.mtu)?;
    }
    let ifb = routes.link(name)?.ok_or(io::ErrorKind::NotFound)?;
    routes.set_up(ifb.index)?;
    routes.redirect(host.index, ifb.index)?;
    routes.limit(ifb.index, rate)?;
    Ok(Some(ifb))
}

/// Removes that interface. Idempotent; the rest goes with the pod's own.
pub(crate) fn remove(routes: &Routes, name: &str) {
    if let Ok(Some(index)) = routes.index(name)
        && let Err(error) = routes.delete_link(index)
    {
        tracing::warn!(interface = name, %error, "it is not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_program() {
        // SHA-512 of "abc" begins with ddaf35a193617aba (FIPS 180-4).
        assert_eq!(ifb_name("abc"), "bwpddaf35a19361");
    }

    #[test]
    fn rates_and_bursts() {
        let ask = |ingress_rate, ingress_burst, egress_rate, egress_burst| {
            Limits::new(&Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst })
        };
        assert_eq!(ask(0, 0, 0, 0), Ok(None));
        assert!(ask(1000, 0, 0, 0).is_err() && ask(0, 0, 0, 1).is_err());
        let limits = ask(80_000_000, 8_000_000, 0, 0).unwrap().unwrap();
        assert_eq!(limits.receives(), Some(Rate { bytes: 10_000_000, burst: 1_000_000 }));
        assert_eq!(limits.sends(), None);
        let small = ask(0, 0, 1, u64::MAX).unwrap().unwrap();
        assert_eq!(small.sends(), Some(Rate { bytes: 1, burst: u32::MAX }));
    }
}
