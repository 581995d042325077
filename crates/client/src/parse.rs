//! The forms of option values.

use std::net::IpAddr;
use std::path::Path;

use berth_cri_api::v1::{KeyValue, Mount, MountPropagation, PortMapping, Protocol};

/// As pods are named: a DNS label, for it is the host name too.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !text.is_empty()
        && text.len() <= 63
        && text.chars().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
    {
        true => Ok(text.to_owned()),
        false => Err("is no name: 1 to 63 of a-z, 0-9 and - (not first or last)".into()),
    }
}

/// `[IP:]HOST:CONTAINER[/PROTOCOL]`, an IPv6 address in brackets.
pub(crate) fn port(text: &str) -> Result<PortMapping, String> {
    const FORM: &str = "is not [IP:]PORT:PORT[/tcp|udp|sctp]";
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(FORM.into()),
    };
    let (front, container) = ports.rsplit_once(':').ok_or(FORM)?;
    let (address, host) = match front.rsplit_once(':') {
        Some((address, host)) => (address.trim_start_matches('[').trim_end_matches(']'), host),
        None => ("", front),
    };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("has {address:?}, which is no address"));
    }
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(i32::from(port)),
        _ => Err(format!("has {text:?}, which is no port from 1 to 65535")),
    };
    Ok(PortMapping {
        protocol: protocol.into(),
        container_port: number(container)?,
        host_port: number(host)?,
        host_ip: address.to_owned(),
    })
}

/// `HOST:CONTAINER[:OPTIONS]`; a relative host path begins at `here`.
pub(crate) fn volume(text: &str, here: &Path) -> Result<Mount, String> {
    let mut parts = text.splitn(3, ':');
    let (Some(host), Some(container)) = (parts.next(), parts.next()) else {
        return Err("is not HOST:PATH[:OPTIONS]".into());
    };
    if host.is_empty() || !container.starts_with('/') {
        return Err("wants a path of the host and an absolute one of the container".into());
    }
    let mut mount = Mount {
        host_path: here.join(host).to_string_lossy().into_owned(),
        container_path: container.to_owned(),
        ..Mount::default()
    };
    for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
        match option {
            "rw" | "rprivate" | "private" => {}
            "ro" => mount.readonly = true,
            "rro" => (mount.readonly, mount.recursive_read_only) = (true, true),
            "rslave" | "slave" => mount.set_propagation(MountPropagation::PropagationHostToContainer),
            "rshared" | "shared" => mount.set_propagation(MountPropagation::PropagationBidirectional),
            other => return Err(format!("has the unknown option {other:?}")),
        }
    }
    Ok(mount)
}

/// `NAME=VALUE`, or `NAME` for the value that it has here; none where it has none.
pub(crate) fn env(text: &str, ours: impl Fn(&str) -> Option<String>) -> Option<KeyValue> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (text, ours(text)?),
    };
    Some(KeyValue { key: key.to_owned(), value: value.into() })
}

/// A number with b, k, m or g, of 1024 each.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" | "ki" => 10,
        "m" | "mb" | "mib" | "mi" => 20,
        "g" | "gb" | "gib" | "gi" => 30,
        _ => return Err("is no size such as 512m or 2g".into()),
    };
    let number = digits.parse::<i64>().ok().filter(|number| *number > 0);
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "is no size such as 512m or 2g".into())
}

/// Microseconds of each 100 ms (cgroups(7): cpu.max).
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    // A millisecond is the least that the kernel takes.
    match number.filter(|number| (0.01..=1e5).contains(number)) {
        Some(number) => Ok((number * 100_000.0).round() as i64),
        None => Err("is no number of processors such as 0.5 or 2".into()),
    }
}

/// A user by number or name, and a group by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: Result<i64, String>,
    pub(crate) gid: Option<i64>,
}

pub(crate) fn user(text: &str) -> Result<User, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let id = |text: &str| text.parse::<u32>().map(i64::from).ok();
    if user.is_empty() {
        return Err("has no user".into());
    }
    let gid = group.map(|group| id(group).ok_or("wants the group by its number")).transpose()?;
    Ok(User { uid: id(user).ok_or_else(|| user.to_owned()), gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let parts = |text| port(text).map(|p| (p.host_ip, p.host_port, p.container_port, p.protocol));
        let (tcp, udp) = (i32::from(Protocol::Tcp), i32::from(Protocol::Udp));
        assert_eq!(parts("8080:80"), Ok((String::new(), 8080, 80, tcp)));
        assert_eq!(parts("127.0.0.1:53:5353/udp"), Ok(("127.0.0.1".into(), 53, 5353, udp)));
        assert_eq!(parts("[::1]:8080:80"), Ok(("::1".into(), 8080, 80, tcp)));
        for bad in ["80", "0:80", "80:70000", "x:80", "1.2.3:80:80", "80:80/icmp", ""] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes() {
        let here = Path::new("/home/me");
        let parts =
            |text| volume(text, here).map(|m| (m.host_path, m.container_path, m.readonly, m.propagation));
        let (private, slave) = (
            i32::from(MountPropagation::PropagationPrivate),
            i32::from(MountPropagation::PropagationHostToContainer),
        );
        assert_eq!(parts("/a:/b"), Ok(("/a".into(), "/b".into(), false, private)));
        assert_eq!(parts("data:/b:ro"), Ok(("/home/me/data".into(), "/b".into(), true, private)));
        assert_eq!(parts("/a:/b:ro,rslave"), Ok(("/a".into(), "/b".into(), true, slave)));
        assert!(volume("/a:/b:rro", here).is_ok_and(|m| m.recursive_read_only && m.readonly));
        for bad in ["/a", ":/b", "/a:b", "/a:/b:fast", ""] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_processors() {
        for (text, wanted) in
            [("1", 1), ("64k", 65_536), ("512m", 512 << 20), ("2G", 2 << 30), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "m", "-1", "1.5g", "9999999999g", "1x", "0"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for (text, wanted) in [("1", 100_000), ("0.5", 50_000), ("2.25", 225_000), ("0.01", 1000)] {
            assert_eq!(cpus(text), Ok(wanted), "{text}");
        }
        for bad in ["", "0", "-1", "x", "inf", "1e9"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_users_and_variables() {
        assert!(name("web-1").is_ok());
        for bad in ["", "Web", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(user("7:8"), Ok(User { uid: Ok(7), gid: Some(8) }));
        assert_eq!(user("web"), Ok(User { uid: Err("web".into()), gid: None }));
        assert!(user(":1").is_err() && user("a:b").is_err());
        let ours = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let pair = |text| env(text, ours).map(|e| (e.key, e.value));
        assert_eq!(pair("A=b=c"), Some(("A".into(), b"b=c".to_vec())));
        assert_eq!(pair("HOME"), Some(("HOME".into(), b"/root".to_vec())));
        assert_eq!(pair("MISSING"), None);
    }
}
