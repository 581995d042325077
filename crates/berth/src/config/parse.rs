//! Values to what they mean. Each function says in one clause what is wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use berth_images::Pin;
use berth_pods::DEFAULT_HANDLER;

use super::settings::Value;
use super::{IpVersion, LogFormat};

/// IFNAMSIZ of netdevice(7) without the closing NUL.
const INTERFACE_NAME_MAX: usize = 15;
/// `sun_path` of unix(7) without the closing NUL and without the mark of a socket that is being made.
const SOCKET_PATH_MAX: usize = 106;

/// An address range, written `10.85.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// The range's first address: no bit is set below the prefix.
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err("expected a text".into()),
    }
}

fn list(value: &Value) -> Result<&[String], String> {
    match value {
        Value::List(items) => Ok(items),
        _ => Err("expected a list of texts".into()),
    }
}

pub(super) fn name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    // 12, so that the name with a suffix still is an interface name.
    if (1..=12).contains(&name.len()) && name.bytes().all(good) && name.as_bytes()[0].is_ascii_lowercase() {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} is not 1 to 12 of a-z, 0-9 and - with a letter first"))
    }
}

pub(super) fn absolute(value: &Value) -> Result<PathBuf, String> {
    absolute_path(text(value)?)
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    match path.is_absolute() && plain && path.parent().is_some() {
        true => Ok(path.components().collect()),
        false => Err(format!("{text:?} is not an absolute path without \"..\"")),
    }
}

pub(super) fn socket(value: &Value) -> Result<PathBuf, String> {
    let path = absolute(value)?;
    match path.as_os_str().len() {
        0..=SOCKET_PATH_MAX => Ok(path),
        length => {
            Err(format!("a socket's path has at most {SOCKET_PATH_MAX} bytes (unix(7)), this one {length}"))
        }
    }
}

pub(super) fn optional_file(value: &Value) -> Result<Option<PathBuf>, String> {
    match text(value)? {
        "" => Ok(None),
        path => absolute_path(path).map(Some),
    }
}

pub(super) fn directories(value: &Value) -> Result<Vec<PathBuf>, String> {
    list(value)?.iter().map(|path| absolute_path(path)).collect()
}

pub(super) fn pins(value: &Value) -> Result<Vec<Pin>, String> {
    list(value)?.iter().map(|text| Pin::parse(text)).collect()
}

/// HANDLER=DIRECTORY, each handler once.
pub(super) fn by_handler(value: &Value) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut all = BTreeMap::new();
    for item in list(value)? {
        let pair = item.split_once('=').filter(|(handler, _)| !handler.trim().is_empty());
        let (handler, path) = pair.ok_or_else(|| format!("{item:?} is not HANDLER=DIRECTORY"))?;
        let (handler, path) = (handler.trim(), absolute_path(path.trim())?);
        if handler != DEFAULT_HANDLER {
            return Err(format!("there is no runtime handler {handler:?}, only {DEFAULT_HANDLER:?}"));
        }
        if all.insert(handler.to_owned(), path).is_some() {
            return Err(format!("handler {handler:?} is named twice"));
        }
    }
    Ok(all)
}

pub(super) fn ip_preference(value: &Value) -> Result<Option<IpVersion>, String> {
    match text(value)? {
        "cni" => Ok(None),
        "ipv4" => Ok(Some(IpVersion::V4)),
        "ipv6" => Ok(Some(IpVersion::V6)),
        other => Err(format!("{other:?} is neither \"cni\", \"ipv4\" nor \"ipv6\"")),
    }
}

pub(super) fn level(value: &Value) -> Result<String, String> {
    let level = text(value)?;
    match level.parse::<tracing_subscriber::filter::Targets>() {
        Ok(_) if !level.trim().is_empty() => Ok(level.to_owned()),
        _ => Err(format!("{level:?} is neither a level nor a list of part=level")),
    }
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, String> {
    match text(value)? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is neither \"text\" nor \"json\"")),
    }
}

pub(super) fn interface(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len()) && name != "." && name != "..";
    if fits && name.bytes().all(good) {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} is no interface name of 1 to {INTERFACE_NAME_MAX} bytes"))
    }
}

/// Empty, one, or one of each IP version.
pub(super) fn subnets(value: &Value) -> Result<Vec<Subnet>, String> {
    let subnets: Vec<Subnet> = list(value)?.iter().map(|text| subnet(text)).collect::<Result<_, _>>()?;
    match subnets[..] {
        [] | [_] => Ok(subnets),
        [a, b] if a.address.is_ipv4() != b.address.is_ipv4() => Ok(subnets),
        _ => Err("at most one subnet of each IP version".into()),
    }
}

fn subnet(text: &str) -> Result<Subnet, String> {
    let wrong = || {
        format!(
            "{text:?} is no subnet of IPv4 from /8 to /29, such as 10.85.0.0/16, or of IPv6 from /48 to /124"
        )
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let good = if address.is_ipv4() { 8..=29 } else { 48..=124 };
    let prefix: u8 = prefix.parse().ok().filter(|prefix| good.contains(prefix)).ok_or_else(wrong)?;
    let below = match address {
        IpAddr::V4(address) => u128::from(u32::from(address) & (u32::MAX >> prefix)),
        IpAddr::V6(address) => u128::from(address) & (u128::MAX >> prefix),
    };
    if below != 0 {
        return Err(format!("{text:?}: the address has bits below the prefix"));
    }
    Ok(Subnet { address, prefix })
}

pub(super) fn mtu(value: &Value) -> Result<u32, String> {
    match value {
        // Below 1280 there is no IPv6 (RFC 8200, section 5).
        Value::Number(bytes @ (0 | 1280..=65535)) => u32::try_from(*bytes).map_err(|error| error.to_string()),
        Value::Number(other) => Err(format!("{other} is neither 0 nor between 1280 and 65535")),
        _ => Err("expected a whole number".into()),
    }
}

pub(super) fn switch(value: &Value) -> Result<bool, String> {
    match value {
        Value::Switch(switch) => Ok(*switch),
        _ => Err("expected true or false".into()),
    }
}

pub(super) fn cgroup(value: &Value) -> Result<String, String> {
    let path = text(value)?;
    absolute_path(path)
        .map_err(|_| format!("{path:?} is no control group below the root, such as /berth"))?;
    Ok(path.trim_end_matches('/').to_owned())
}

pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let text = text(value)?;
    time(text, 3_600_000)
        .ok_or_else(|| format!("{text:?} is no time such as 500ms, 10s or 2m, at most an hour"))
}

/// How long a transfer may stand still: a second to ten minutes.
pub(super) fn stall(value: &Value) -> Result<Duration, String> {
    let text = text(value)?;
    let time = time(text, 600_000).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| format!("{text:?} is no time such as 30s or 2m, of a second to ten minutes"))
}

/// How long a stream may rest: a second to a week.
pub(super) fn idle(value: &Value) -> Result<Duration, String> {
    let text = text(value)?;
    let time = time(text, 7 * 24 * 3_600_000).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| format!("{text:?} is no time such as 30m or 4h, of a second to 168h"))
}

/// At most so many milliseconds.
fn time(text: &str, most: u64) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    (milliseconds <= most).then(|| Duration::from_millis(milliseconds))
}

pub(super) fn address(value: &Value) -> Result<IpAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

pub(super) fn port(value: &Value) -> Result<u16, String> {
    match value {
        Value::Number(port) => u16::try_from(*port).map_err(|_| format!("{port} is not within 0 to 65535")),
        _ => Err("expected a whole number".into()),
    }
}

/// Whether only TLS 1.3 is spoken.
pub(super) fn tls_1_3(value: &Value) -> Result<bool, String> {
    match text(value)? {
        "1.2" => Ok(false),
        "1.3" => Ok(true),
        other => Err(format!("{other:?} is neither \"1.2\" nor \"1.3\"")),
    }
}
