//! What pods say of their network in annotations, as nobody's API has a field for it.

use std::collections::BTreeMap;

use crate::Bandwidth;

/// Kubernetes' own: limits of a pod's traffic, as quantities of bits a second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Kubernetes takes no others (k8s.io/kubernetes/pkg/util/bandwidth).
const RATES: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;

/// An annotation that says something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotations[{key}]: {value:?} is no rate from 1k to 1P in bits a second, such as 10M")]
pub struct BadAnnotation {
    pub key: &'static str,
    pub value: String,
}

/// The limits of a pod; `None` when it has none.
pub fn pod_bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Bandwidth>, BadAnnotation> {
    let rate = |key: &'static str| match annotations.get(key) {
        None => Ok(0),
        Some(text) => quantity(text)
            .filter(|rate| RATES.contains(rate))
            .and_then(|rate| u64::try_from(rate).ok())
            .ok_or_else(|| BadAnnotation { key, value: text.chars().take(40).collect() }),
    };
    let (ingress_rate, egress_rate) = (rate(INGRESS)?, rate(EGRESS)?);
    let (ingress_burst, egress_burst) = (burst(ingress_rate), burst(egress_rate));
    let limits = Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst };
    Ok((limits != Bandwidth::default()).then_some(limits))
}

/// A tenth of a second, so that a limit is felt at once; at least 128 KiB, for the kernel passes on segments of 64 KiB. A
/// limit of none has none.
fn burst(rate: u64) -> u64 {
    match rate {
        0 => 0,
        rate => (rate / 10).clamp(1 << 20, i32::MAX.unsigned_abs().into()),
    }
}

/// A Kubernetes quantity as a whole number, rounded up: 1500, 1.5k, 10M, 1Gi, 1e6, 200m.
fn quantity(text: &str) -> Option<u128> {
    const PLACES: usize = 9;
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') || whole.len() > 18 || part.len() > PLACES
    {
        return None;
    }
    // In thousand-millionths, the smallest that a quantity has.
    let nano: u128 = format!("{whole}{part:0<PLACES$}").parse().ok()?;
    let exponent = |text: &str| text.parse::<i32>().ok().filter(|exponent| (-9..=18).contains(exponent));
    let (times, over) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1_u128 << 60, 1),
        other => match exponent(other.strip_prefix(['e', 'E'])?)? {
            below @ ..0 => (1, 10_u128.pow(below.unsigned_abs())),
            above => (10_u128.pow(above.unsigned_abs()), 1),
        },
    };
    Some(nano.checked_mul(times)?.div_ceil(over).div_ceil(1_000_000_000))
}

/// Berth's own, for plugins that declare the capability of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    pub mac: Option<String>,
    pub ips: Option<Vec<String>>,
    pub infiniband_guid: Option<String>,
    pub device_id: Option<String>,
}

impl Wishes {
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| {
            annotations.get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let ips = text("berth.ips");
        Self {
            mac: text("berth.mac"),
            ips: ips.map(|all| all.split(',').map(|ip| ip.trim().to_owned()).collect()),
            infiniband_guid: text("berth.infiniband-guid"),
            device_id: text("berth.device-id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("1500", Some(1500)),
            ("1.5k", Some(1500)),
            ("10M", Some(10_000_000)),
            ("1Gi", Some(1 << 30)),
            ("1e6", Some(1_000_000)),
            ("15E-1", Some(2)),
            ("200m", Some(1)),
            (".5k", Some(500)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1.2.3", None),
            ("10Mbit", None),
            ("1e99", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(quantity(text), value, "{text:?}");
        }
    }

    #[test]
    fn limits_of_a_pod() {
        let of = |pairs: &[(&str, &str)]| {
            pod_bandwidth(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        assert_eq!(of(&[]), Ok(None));
        let one = of(&[(INGRESS, "100M")]).unwrap().unwrap();
        assert_eq!((one.ingress_rate, one.ingress_burst, one.egress_rate), (100_000_000, 10_000_000, 0));
        let said = of(&[(EGRESS, "10")]).unwrap_err().to_string();
        assert!(said.contains("annotations[kubernetes.io/egress-bandwidth]: \"10\""), "{said}");
    }
}
