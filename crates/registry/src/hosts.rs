//! `certs.d/<host>/hosts.toml`: where a host's images really come from (containerd's format).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::RegistryError;

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Up to and including `/v2`, without a slash at the end.
    pub(crate) base: String,
    pub(crate) skip_verify: bool,
    /// PEM files.
    pub(crate) ca: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, HostTable>,
}

#[derive(Debug, Default, Deserialize)]
struct HostTable {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    ca: Option<Paths>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Paths {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The places for a host, in the order to try; the host itself comes last unless the file names another server.
pub(crate) fn endpoints(directories: &[PathBuf], host: &str) -> Result<Vec<Endpoint>, RegistryError> {
    for directory in directories {
        for name in [host, "_default"] {
            let path = directory.join(name).join("hosts.toml");
            match std::fs::read_to_string(&path) {
                Ok(text) => return parse(&text, &path, host),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(RegistryError::Hosts { path, problem: error.to_string() }),
            }
        }
    }
    Ok(vec![own(host)])
}

/// docker.io is a name, not an address.
fn own(host: &str) -> Endpoint {
    let address = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let scheme = if is_loopback(address) { "http" } else { "https" };
    Endpoint { base: format!("{scheme}://{address}/v2"), skip_verify: false, ca: Vec::new() }
}

/// Plain HTTP without being told to is for this machine alone.
fn is_loopback(address: &str) -> bool {
    let name = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => address.rsplit_once(':').map_or(address, |(name, _)| name),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(text: &str, path: &Path, host: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let fail = |problem: String| RegistryError::Hosts { path: path.to_owned(), problem };
    let file: File = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
    // The table's order in the file is the order to try; serde's map has lost it.
    let place = |url: &String| text.find(&format!("\"{url}\"")).unwrap_or(usize::MAX);
    let mut hosts: Vec<_> = file.host.iter().collect();
    hosts.sort_by_key(|(url, _)| place(url));
    let mut found = Vec::new();
    for (url, table) in hosts {
        if !table.capabilities.is_empty() && !table.capabilities.iter().any(|c| c == "pull" || c == "resolve")
        {
            continue;
        }
        let ca = match &table.ca {
            None => Vec::new(),
            Some(Paths::One(one)) => vec![one.clone()],
            Some(Paths::Many(many)) => many.clone(),
        };
        let beside = |file: PathBuf| path.parent().map_or(file.clone(), |directory| directory.join(&file));
        found.push(Endpoint {
            base: base(url, table.override_path)
                .ok_or_else(|| fail(format!("{url:?} is no http or https address")))?,
            skip_verify: table.skip_verify,
            ca: ca.into_iter().map(beside).collect(),
        });
    }
    match file.server.as_deref() {
        Some(server) => {
            let base = base(server, false)
                .ok_or_else(|| fail(format!("server {server:?} is no http or https address")))?;
            if !found.iter().any(|endpoint| endpoint.base == base) {
                found.push(Endpoint { base, skip_verify: false, ca: Vec::new() });
            }
        }
        None => found.push(own(host)),
    }
    Ok(found)
}

fn base(url: &str, keep_path: bool) -> Option<String> {
    let url = url.trim_end_matches('/');
    let address = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let full = match address {
        Some("") => return None,
        Some(_) => url.to_owned(),
        None if url.contains("://") || url.is_empty() => return None,
        None => format!("{}://{url}", if is_loopback(url) { "http" } else { "https" }),
    };
    Some(if keep_path || full.ends_with("/v2") { full } else { format!("{full}/v2") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(text: &str, host: &str) -> Vec<String> {
        parse(text, Path::new("/c/hosts.toml"), host).unwrap().into_iter().map(|e| e.base).collect()
    }

    #[test]
    fn mirrors_in_the_files_order_then_the_server() {
        let text = "server = \"https://up.io\"\n[host.\"http://z.io:5000\"]\n[host.\"https://a.io/p/v2\"]\noverride_path = true\n\
                    [host.\"https://push.io\"]\ncapabilities = [\"push\"]\n";
        assert_eq!(bases(text, "x.io"), ["http://z.io:5000/v2", "https://a.io/p/v2", "https://up.io/v2"]);
        assert_eq!(bases("", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert!(parse("server = 5", Path::new("/h"), "x").is_err());
        assert!(parse("[host.\"ftp://x\"]", Path::new("/h"), "x").is_err());
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for (host, expected) in [
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("localhost:1", "http://localhost:1/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("r.io", "https://r.io/v2"),
        ] {
            assert_eq!(own(host).base, expected);
        }
    }

    #[test]
    fn the_first_directory_that_has_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("r.io");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("hosts.toml"), "server = \"http://127.0.0.1:5\"").unwrap();
        let found = endpoints(&["/nowhere".into(), directory.path().into()], "r.io").unwrap();
        assert_eq!(found[0].base, "http://127.0.0.1:5/v2");
    }
}
