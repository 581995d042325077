//! Docker's `config.json`: credentials by host, and the helper programs that have more.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::hosts::plain_host;
use crate::{Credentials, RegistryError, helper};

/// Bytes of a file.
const FILE_MAX: u64 = 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)")
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Bearer { token: self.registrytoken.clone() }));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity { token: self.identitytoken.clone() }));
        }
        if !self.username.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Credentials::Basic { username, password }));
        }
        match self.auth.is_empty() {
            // Docker writes an empty entry where a store has the secret.
            true => Ok(None),
            false => {
                Credentials::from_basic(&self.auth).map(Some).ok_or("auth is not base64 of user:password")
            }
        }
    }
}

/// What was found and where, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) credentials: Credentials,
    pub(crate) source: String,
}

/// Where a file says to look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Here(Credentials, String),
    Helper { name: String, server: String },
}

/// The first file's that has any for one of `hosts`; an entry for a part of the host's repositories goes before one for all.
pub(crate) async fn find(
    files: &[PathBuf],
    hosts: &[&str],
    repository: &str,
) -> Result<Option<Found>, RegistryError> {
    for path in files {
        let (read, names) = (path.clone(), hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>());
        let repository = repository.to_owned();
        let looked = tokio::task::spawn_blocking(move || ways(&read, &names, &repository))
            .await
            .unwrap_or_else(|_| {
                Err(RegistryError::AuthFile { path: path.clone(), problem: "reading it was lost".into() })
            })?;
        for way in looked {
            match way {
                Way::Here(credentials, key) => {
                    let source = format!("{} ({key})", path.display());
                    return Ok(Some(Found { credentials, source }));
                }
                Way::Helper { name, server } => {
                    if let Some(credentials) = helper::ask(&name, &server).await? {
                        let source =
                            format!("docker-credential-{name} ({server}), named in {}", path.display());
                        return Ok(Some(Found { credentials, source }));
                    }
                }
            }
        }
    }
    Ok(None)
}

fn ways(path: &Path, hosts: &[String], repository: &str) -> Result<Vec<Way>, RegistryError> {
    let fail = |problem: String| RegistryError::AuthFile { path: path.to_owned(), problem };
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    if text.len() as u64 > FILE_MAX {
        return Err(fail(format!("it is larger than {FILE_MAX} bytes")));
    }
    parse(&text, hosts, repository).map_err(fail)
}

pub(crate) fn parse(text: &str, hosts: &[String], repository: &str) -> Result<Vec<Way>, String> {
    // serde_json's messages have the place and what was expected, never a value of the text.
    let file: File = serde_json::from_str(text).map_err(|error| {
        format!("line {}, column {}: no config.json of docker's form", error.line(), error.column())
    })?;
    let mut ways = Vec::new();
    for host in hosts {
        let helper = file.cred_helpers.iter().find(|(key, _)| plain_host(key) == plain_host(host));
        if let Some((server, name)) = helper {
            ways.push(Way::Helper { name: name.clone(), server: server.clone() });
        }
        let entries =
            file.auths.iter().filter_map(|(key, entry)| Some((fit(key, host, repository)?, key, entry)));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
        for (_, key, entry) in entries {
            if let Some(credentials) = entry.credentials().map_err(|why| format!("auths {key:?}: {why}"))? {
                ways.push(Way::Here(credentials, key.clone()));
            }
        }
        if !file.creds_store.is_empty() && helper.is_none() {
            let hub = "https://index.docker.io/v1/";
            let server = if plain_host(host) == "docker.io" { hub } else { host };
            ways.push(Way::Helper { name: file.creds_store.clone(), server: server.to_owned() });
        }
    }
    Ok(ways)
}

/// How much of the repository's path a key names; `None` if it is another's.
fn fit(key: &str, host: &str, repository: &str) -> Option<usize> {
    if plain_host(key) != plain_host(host) {
        return None;
    }
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    // Docker's own keys end with the protocol's version.
    if ["", "v1", "v2"].contains(&path) {
        return Some(0);
    }
    let below = repository.strip_prefix(path)?;
    (below.is_empty() || below.starts_with('/')).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str) -> Credentials {
        Credentials::Basic { username: user.into(), password: "p".into() }
    }

    fn found(text: &str, host: &str, repository: &str) -> Vec<Way> {
        parse(text, &[host.to_owned()], repository).unwrap()
    }

    #[test]
    fn entries_are_by_host_and_path() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "r.io": {"auth": "YWxsOnA="},
            "r.io/team": {"username": "team", "password": "p"},
            "r.io:5000": {"identitytoken": "i"},
            "t.io": {"registrytoken": "t"},
            "empty.io": {}
        }}"#;
        let first = |host: &str, repository: &str| match found(text, host, repository).into_iter().next() {
            Some(Way::Here(credentials, _)) => Some(credentials),
            _ => None,
        };
        assert_eq!(first("docker.io", "library/x"), Some(basic("hub")));
        assert_eq!(first("r.io", "x"), Some(basic("all")));
        assert_eq!(first("r.io", "team/x"), Some(basic("team")));
        assert_eq!(first("r.io", "teams/x"), Some(basic("all")));
        assert_eq!(first("r.io:5000", "x"), Some(Credentials::Identity { token: "i".into() }));
        assert_eq!(first("t.io", "x"), Some(Credentials::Bearer { token: "t".into() }));
        assert_eq!(first("empty.io", "x"), None);
        assert_eq!(first("io", "x"), None);
    }

    #[test]
    fn helpers_are_by_host_then_for_all() {
        let text = r#"{"credsStore": "all", "credHelpers": {"r.io": "one"}}"#;
        let way = |name: &str, server: &str| Way::Helper { name: name.into(), server: server.into() };
        assert_eq!(found(text, "r.io", "x"), [way("one", "r.io")]);
        assert_eq!(found(text, "docker.io", "x"), [way("all", "https://index.docker.io/v1/")]);
    }

    #[test]
    fn a_broken_file_is_told_without_its_secrets() {
        for bad in [
            "{",
            r#"{"auths": {"r.io": {"auth": ["hidden"]}}}"#,
            r#"{"auths": {"r.io": {"auth": "hidden!"}}}"#,
        ] {
            let error = parse(bad, &["r.io".to_owned()], "x").unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
