//! Parts of subnets, as numbers.

use std::net::IpAddr;

use berth_cni::{Cidr, PluginError, Range};

use crate::plugin::link::network;
use crate::subnet::{address, bits};

/// One range of which a pod gets an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    v6: bool,
    pub(super) first: u128,
    pub(super) last: u128,
    pub(super) gateway: IpAddr,
    pub(super) prefix: u8,
}

fn wrong(why: String) -> PluginError {
    PluginError::new(PluginError::INVALID_CONFIG, why)
}

impl Span {
    /// The whole subnet but its own address, of IPv4 the broadcast address too, unless bounds are named; the gateway is the
    /// first one unless it is named.
    pub(super) fn new(range: &Range) -> Result<Self, PluginError> {
        let Range { subnet, .. } = range;
        let v6 = subnet.is_ipv6();
        let width: u8 = if v6 { 128 } else { 32 };
        if network(*subnet) != subnet.address {
            return Err(wrong(format!("{subnet} has bits below the prefix")));
        }
        if width - subnet.prefix < 2 {
            return Err(wrong(format!("{subnet} has no addresses to give")));
        }
        let base = bits(subnet.address);
        let rest = 1_u128.checked_shl(u32::from(width - subnet.prefix)).map_or(u128::MAX, |size| size - 1);
        let end = base | rest;
        let within = |what: &str, ip: IpAddr| match ip.is_ipv6() == v6 && bits(ip) & !rest == base {
            true => Ok(bits(ip)),
            false => Err(wrong(format!("{what} {ip} is not of {subnet}"))),
        };
        let first = range.range_start.map_or(Ok(base + 1), |ip| within("rangeStart", ip))?;
        let usual_end = if v6 { end } else { end - 1 };
        let last = range.range_end.map_or(Ok(usual_end), |ip| within("rangeEnd", ip))?;
        if first > last {
            return Err(wrong(format!("the range of {subnet} ends before it starts")));
        }
        let gateway = range.gateway.unwrap_or_else(|| address(v6, base + 1));
        Ok(Self { v6, first, last, gateway, prefix: subnet.prefix })
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.v6 && (self.first..=self.last).contains(&bits(ip))
    }

    pub(super) fn cidr(&self, ip: IpAddr) -> Option<Cidr> {
        Cidr::new(ip, self.prefix)
    }

    pub(super) fn at(&self, bits: u128) -> IpAddr {
        address(self.v6, bits)
    }
}

/// The gateway of the first range of an IP version, and the first address that a pod gets of it.
pub(crate) fn first_addresses(set: &[Range], v6: bool) -> Option<(IpAddr, IpAddr)> {
    let spans: Vec<Span> =
        set.iter().filter_map(|range| Span::new(range).ok()).filter(|s| s.v6 == v6).collect();
    circle(&spans, None).next().map(|(span, ip)| (span.gateway, ip))
}

/// The addresses of several ranges, from the one behind `after` on and once around; never a gateway.
pub(super) fn circle(spans: &[Span], after: Option<IpAddr>) -> impl Iterator<Item = (&Span, IpAddr)> {
    let start = after.and_then(|ip| {
        let at = spans.iter().position(|span| span.contains(ip))?;
        Some((at, bits(ip)))
    });
    let (at, number) = start.unwrap_or((0, 0));
    let (behind, up_to) = match (spans.get(at), start) {
        (Some(span), Some(_)) => {
            ((number < span.last).then(|| number + 1..=span.last), Some(span.first..=number))
        }
        (Some(span), None) => (Some(span.first..=span.last), None),
        (None, _) => (None, None),
    };
    let whole = |index: usize| spans.get(index).map(|span| (index, span.first..=span.last));
    let others = (at + 1..spans.len()).chain(0..at).filter_map(whole);
    let all = behind.map(|r| (at, r)).into_iter().chain(others).chain(up_to.map(|r| (at, r)));
    all.flat_map(|(index, numbers)| {
        let span = &spans[index];
        numbers.map(move |number| (span, span.at(number))).filter(|(span, ip)| span.gateway != *ip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, from: &str, to: &str) -> Range {
        Range {
            subnet: subnet.parse().unwrap(),
            range_start: from.parse().ok(),
            range_end: to.parse().ok(),
            gateway: None,
        }
    }

    fn texts(spans: &[Span], after: &str) -> String {
        let all = circle(spans, after.parse().ok()).take(20);
        all.map(|(_, ip)| ip.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn round_and_round() {
        let small = [Span::new(&range("10.0.0.0/29", "", "")).unwrap()];
        assert_eq!(texts(&small, ""), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        assert_eq!(texts(&small, "10.0.0.4"), "10.0.0.5 10.0.0.6 10.0.0.2 10.0.0.3 10.0.0.4");
        assert_eq!(texts(&small, "10.0.0.6"), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        assert_eq!(texts(&small, "10.9.0.6"), texts(&small, ""));
        let two = [
            Span::new(&range("10.0.0.0/24", "10.0.0.10", "10.0.0.11")).unwrap(),
            Span::new(&range("10.0.1.0/24", "10.0.1.20", "10.0.1.21")).unwrap(),
        ];
        assert_eq!(texts(&two, "10.0.0.11"), "10.0.1.20 10.0.1.21 10.0.0.10 10.0.0.11");
        assert_eq!(texts(&two, "10.0.1.20"), "10.0.1.21 10.0.0.10 10.0.0.11 10.0.1.20");
        let six = [Span::new(&range("fd00::/126", "", "")).unwrap()];
        assert_eq!(texts(&six, ""), "fd00::2 fd00::3");
        assert!(
            texts(&[Span::new(&range("fd00::/64", "", "")).unwrap()], "").starts_with("fd00::2 fd00::3 ")
        );
        assert_eq!(texts(&[], ""), "");
    }

    #[test]
    fn what_is_no_range() {
        for (subnet, from, to) in [
            ("10.0.0.1/24", "", ""),
            ("10.0.0.0/31", "", ""),
            ("10.0.0.0/24", "10.0.1.1", ""),
            ("10.0.0.0/24", "", "fd00::1"),
            ("10.0.0.0/24", "10.0.0.9", "10.0.0.8"),
        ] {
            assert!(Span::new(&range(subnet, from, to)).is_err(), "{subnet} {from} {to}");
        }
    }
}
