//! `certs.d/<host>/hosts.toml`: where a host's images really come from (containerd's format).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use toml::Spanned;

use crate::RegistryError;

/// Bytes of a file; real ones have some hundred.
const FILE_MAX: u64 = 256 * 1024;
/// Places for one host.
const PLACES: usize = 32;

/// One place to ask.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Up to and including `/v2`, without a slash at the end.
    pub(crate) base: String,
    /// The host itself and no mirror of it.
    pub(crate) own: bool,
    /// Tags may be looked up here; without, only what has a digest is asked for.
    pub(crate) resolve: bool,
    pub(crate) pull: bool,
    /// A mirror takes pushes only where that is said.
    pub(crate) push: bool,
    pub(crate) skip_verify: bool,
    /// PEM files.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key; one file may hold both.
    pub(crate) client: Option<(PathBuf, Option<PathBuf>)>,
    /// Sent to this place and nowhere else.
    pub(crate) header: Vec<(String, String)>,
    pub(crate) dial_timeout: Option<Duration>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Endpoint {
    fn plain(base: String, own: bool) -> Self {
        Self {
            base,
            own,
            resolve: true,
            pull: true,
            push: own,
            skip_verify: false,
            ca: Vec::new(),
            client: None,
            header: Vec::new(),
            dial_timeout: None,
        }
    }

    /// Host and port as the address has them.
    pub(crate) fn authority(&self) -> &str {
        let rest = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// Whether what belongs to `name` may be sent here.
    pub(crate) fn belongs_to(&self, name: &str, image_host: &str) -> bool {
        let name = plain_host(name);
        name == plain_host(&self.base) || (self.own && name == plain_host(image_host))
    }
}

/// A host as it is compared: lower case, without scheme, path and the port that https has anyway. Docker Hub has three
/// names.
pub(crate) fn plain_host(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
    let host = host.strip_suffix(":443").map_or(host.clone(), str::to_owned);
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        _ => host,
    }
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: Hosts,
    /// Those of the server.
    #[serde(flatten)]
    table: HostTable,
}

/// In the order of the file, which is the order to try.
#[derive(Default)]
struct Hosts(Vec<(String, HostTable)>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Hosts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tables by address, such as [host.\"https://mirror.example\"]")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
                let mut found: Vec<(Spanned<String>, HostTable)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    found.push(entry);
                }
                found.sort_by_key(|(url, _)| url.span().start);
                Ok(Hosts(found.into_iter().map(|(url, table)| (url.into_inner(), table)).collect()))
            }
        }
        from.deserialize_map(InOrder)
    }
}

#[derive(Default, Deserialize)]
struct HostTable {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<OneOrMany<Client>>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany<String>>,
    dial_timeout: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    fn all(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    Together(PathBuf),
    Pair(PathBuf, PathBuf),
}

/// The places for a host and the file that named them.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) file: Option<PathBuf>,
    /// Keys of the file that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

/// In the order to try; the host itself comes last unless the file names another server. Blocks.
pub(crate) fn places(directories: &[PathBuf], host: &str) -> Result<Places, RegistryError> {
    for directory in directories {
        // A colon in a directory's name is taken for what it is, and also as containerd writes it for some systems.
        for name in [host.to_owned(), host.replacen(':', "_", 1) + "_", "_default".to_owned()] {
            let place = directory.join(&name);
            let path = place.join("hosts.toml");
            match read(&path) {
                Ok(text) => return parse(&text, &path, host),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(RegistryError::Hosts { path, problem: error.to_string() }),
            }
            if let Some(endpoint) = docker_style(&place, host)? {
                return Ok(Places { endpoints: vec![endpoint], file: Some(place), unknown: Vec::new() });
            }
        }
    }
    Ok(Places { endpoints: vec![own(host)], file: None, unknown: Vec::new() })
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A directory without hosts.toml, as docker has them: `*.crt` are authorities, `*.cert` and `*.key` the client's.
fn docker_style(place: &Path, host: &str) -> Result<Option<Endpoint>, RegistryError> {
    let Ok(entries) = std::fs::read_dir(place) else { return Ok(None) };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut endpoint = own(host);
    for file in &files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => endpoint.ca.push(file.clone()),
            Some("cert") if endpoint.client.is_none() => {
                let key = file.with_extension("key");
                if !key.is_file() {
                    let problem = format!("there is no {} beside it", key.display());
                    return Err(RegistryError::Hosts { path: file.clone(), problem });
                }
                endpoint.client = Some((file.clone(), Some(key)));
            }
            _ => {}
        }
    }
    Ok((!endpoint.ca.is_empty() || endpoint.client.is_some()).then_some(endpoint))
}

/// docker.io is a name, not an address.
fn own(host: &str) -> Endpoint {
    let address = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let scheme = if is_loopback(address) { "http" } else { "https" };
    Endpoint::plain(format!("{scheme}://{address}/v2"), true)
}

/// Plain HTTP without being told to is for this machine alone.
pub(crate) fn is_loopback(address: &str) -> bool {
    let name = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => address.rsplit_once(':').map_or(address, |(name, _)| name),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(crate) fn parse(text: &str, path: &Path, host: &str) -> Result<Places, RegistryError> {
    let fail = |problem: String| RegistryError::Hosts { path: path.to_owned(), problem };
    let file: File = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
    if file.host.0.len() > PLACES {
        return Err(fail(format!("it has more than {PLACES} hosts")));
    }
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for (url, table) in &file.host.0 {
        let mut endpoint = Endpoint::plain(
            base(url, table.override_path)
                .ok_or_else(|| fail(format!("{url:?} is no http or https address")))?,
            false,
        );
        fill(&mut endpoint, table, path).map_err(|problem| fail(format!("host {url:?}: {problem}")))?;
        unknown.extend(table.unknown.keys().map(|key| format!("host.{url:?}.{key}")));
        found.push(endpoint);
    }
    unknown.extend(file.table.unknown.keys().cloned());
    let mut server = match file.server.as_deref() {
        None => own(host),
        Some(server) => {
            let base = base(server, file.table.override_path)
                .ok_or_else(|| fail(format!("server {server:?} is no http or https address")))?;
            Endpoint::plain(base, true)
        }
    };
    fill(&mut server, &file.table, path).map_err(fail)?;
    match found.iter_mut().find(|endpoint| endpoint.base == server.base) {
        Some(listed) => (listed.own, listed.push) = (true, listed.push || server.push),
        None => found.push(server),
    }
    Ok(Places { endpoints: found, file: Some(path.to_owned()), unknown })
}

fn fill(endpoint: &mut Endpoint, table: &HostTable, path: &Path) -> Result<(), String> {
    let beside = |file: PathBuf| path.parent().map_or(file.clone(), |directory| directory.join(&file));
    if !table.capabilities.is_empty() {
        let known = ["pull", "resolve", "push"];
        if let Some(other) = table.capabilities.iter().find(|word| !known.contains(&word.as_str())) {
            return Err(format!("capability {other:?} is none of pull, resolve and push"));
        }
        let can = |wanted: &str| table.capabilities.iter().any(|word| word == wanted);
        (endpoint.resolve, endpoint.pull, endpoint.push) = (can("resolve"), can("pull"), can("push"));
    }
    endpoint.skip_verify = table.skip_verify;
    endpoint.ca = table.ca.iter().flat_map(OneOrMany::all).map(beside).collect();
    let clients = table.client.iter().flat_map(OneOrMany::all).collect::<Vec<_>>();
    endpoint.client = match clients.as_slice() {
        [] => None,
        [Client::Together(both)] => Some((beside(both.clone()), None)),
        [Client::Pair(certificate, key)] => Some((beside(certificate.clone()), Some(beside(key.clone())))),
        // ["certificate", "key"]: containerd takes the two for files that hold both; nobody means that.
        [Client::Together(certificate), Client::Together(key)] => {
            Some((beside(certificate.clone()), Some(beside(key.clone()))))
        }
        _ => return Err("client: one certificate with its key".into()),
    };
    for (name, values) in &table.header {
        for value in values.all() {
            let good = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && reqwest::header::HeaderValue::from_str(&value).is_ok();
            if !good {
                return Err(format!("header {name:?} is none that can be sent"));
            }
            endpoint.header.push((name.clone(), value));
        }
    }
    endpoint.dial_timeout = match table.dial_timeout.as_deref() {
        None => None,
        Some(text) => {
            Some(duration(text).ok_or_else(|| format!("dial_timeout {text:?} is no time such as 5s"))?)
        }
    };
    Ok(())
}

/// `500ms`, `5s`, `1m`; up to ten minutes.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        _ => return None,
    };
    (1..=600_000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
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
    let parsed = reqwest::Url::parse(&full).ok()?;
    // A user, query or fragment in it would end up in paths.
    let plain = parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.query().is_none()
        && parsed.fragment().is_none()
        && parsed.has_host();
    plain.then(|| if keep_path || full.ends_with("/v2") { full } else { format!("{full}/v2") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, host: &str) -> Result<Places, RegistryError> {
        parse(text, Path::new("/certs/hosts.toml"), host)
    }

    fn bases(text: &str, host: &str) -> Vec<String> {
        parsed(text, host).unwrap().endpoints.into_iter().map(|e| e.base).collect()
    }

    #[test]
    fn the_order_of_the_file_is_the_order_to_try() {
        let text = "# not \"https://a.io/p\" first\nserver = \"https://up.io\"\n[host.\"http://z.io:5000\"]\n\
                    [host.'https://a.io/p']\n[host.\"https://p.io\"]\ncapabilities = [\"push\"]\n";
        let expected = ["http://z.io:5000/v2", "https://a.io/p/v2", "https://p.io/v2", "https://up.io/v2"];
        assert_eq!(bases(text, "x.io"), expected);
        assert_eq!(bases("", "docker.io"), ["https://registry-1.docker.io/v2"]);
        let listed = "server = \"https://a.io\"\n[host.\"https://a.io\"]\n[host.\"https://b.io\"]";
        assert_eq!(bases(listed, "x.io"), ["https://a.io/v2", "https://b.io/v2"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("server = 5", "server"),
            ("[host.\"ftp://x\"]", "ftp://x"),
            ("[host.\"https://u:p@x\"]", "is no http"),
            ("[host.\"https://x?q=1\"]", "is no http"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "dial_timeout"),
            ("[host.\"https://x\"]\nclient = [[\"a\",\"b\"],[\"c\",\"d\"]]", "client"),
            ("[host.\"https://x\"]\nheader = {\"a b\" = \"c\"}", "header"),
            ("[host", "hosts.toml"),
        ] {
            let error = parsed(text, "x").unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_place_has_all_that_the_file_says() {
        let text = "server = \"https://up.io\"\nca = \"up.pem\"\n[host.\"https://m.io/proxy\"]\n\
                    capabilities = [\"pull\"]\noverride_path = true\nskip_verify = true\nca = [\"a.pem\", \"/b.pem\"]\n\
                    client = [[\"c.pem\", \"k.pem\"]]\ndial_timeout = \"2s\"\nfoo = 1\n\
                    [host.\"https://m.io/proxy\".header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]\n";
        let places = parsed(text, "x.io").unwrap();
        let mirror = &places.endpoints[0];
        assert_eq!((mirror.resolve, mirror.pull, mirror.push, mirror.own), (false, true, false, false));
        assert!(mirror.skip_verify && mirror.base == "https://m.io/proxy");
        assert_eq!(mirror.ca, [PathBuf::from("/certs/a.pem"), "/b.pem".into()]);
        assert_eq!(mirror.client, Some(("/certs/c.pem".into(), Some("/certs/k.pem".into()))));
        assert_eq!(mirror.header.len(), 3);
        assert_eq!(mirror.dial_timeout, Some(Duration::from_secs(2)));
        assert_eq!(places.unknown, ["host.\"https://m.io/proxy\".foo"]);
        assert!(places.endpoints[1].own && places.endpoints[1].ca == [PathBuf::from("/certs/up.pem")]);
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
    fn credentials_stay_with_their_host() {
        let own = own("docker.io");
        for (name, expected) in [
            ("docker.io", true),
            ("https://index.docker.io/v1/", true),
            ("registry-1.docker.io", true),
            ("evil.io", false),
            ("docker.io.evil.io", false),
        ] {
            assert_eq!(own.belongs_to(name, "docker.io"), expected, "{name}");
        }
        let mirror = Endpoint::plain("https://m.io/v2".into(), false);
        assert!(!mirror.belongs_to("docker.io", "docker.io") && mirror.belongs_to("M.io:443", "docker.io"));
        assert!(!mirror.belongs_to("m.io:5000", "docker.io"));
        let server = Endpoint::plain("https://real.io/v2".into(), true);
        assert!(server.belongs_to("name.io", "name.io") && !server.belongs_to("name.io", "other.io"));
    }

    #[test]
    fn the_first_directory_that_has_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("r.io");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("ca.crt"), "x").unwrap();
        let found = places(&["/nowhere".into(), directory.path().into()], "r.io").unwrap();
        assert_eq!(found.endpoints[0].ca, [place.join("ca.crt")]);
        std::fs::write(place.join("hosts.toml"), "server = \"http://127.0.0.1:5\"").unwrap();
        let found = places(&["/nowhere".into(), directory.path().into()], "r.io").unwrap();
        assert_eq!(found.endpoints[0].base, "http://127.0.0.1:5/v2");
        std::fs::remove_file(place.join("hosts.toml")).unwrap();
        std::fs::write(place.join("client.cert"), "x").unwrap();
        assert!(places(&[directory.path().into()], "r.io").is_err(), "a certificate without a key");
    }
}
