//! Network configurations as files have them (CNI 1.1, section 1). Bounded, and every refusal says where.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::result::none_is_empty;
use crate::{Known, Version};

/// Plugins in a chain: chains in the field have two to five.
const PLUGINS_MAX: usize = 32;

/// Why a configuration is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfError {
    pub path: PathBuf,
    /// From 1.
    pub line: Option<usize>,
    pub problem: String,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl ConfError {
    pub(crate) fn new(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, problem: problem.into() }
    }

    fn json(path: &Path, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        // The library ends its words with where, which is told in front.
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words).to_owned();
        Self { path: path.to_owned(), line: Some(error.line()).filter(|line| *line > 0), problem }
    }
}

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// `type`: the name of the plugin's program.
    pub kind: String,
    /// Those that are declared and on.
    pub capabilities: BTreeSet<String>,
    /// As written, without `name` and `cniVersion`.
    pub conf: Map<String, Value>,
    pub known: Option<Known>,
}

/// A network that pods can be connected to.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConf {
    pub name: String,
    /// Those it is written for that Berth speaks, oldest first; never empty.
    pub versions: Vec<Version>,
    pub disable_check: bool,
    pub disable_gc: bool,
    /// Plugins may also be in files of their own, in a directory of the network's name.
    pub load_from_directory: bool,
    pub plugins: Vec<PluginConf>,
}

/// The capabilities that a plugin's configuration declares. `None`: not as an object.
pub(crate) fn declared(conf: &Map<String, Value>) -> Option<BTreeSet<String>> {
    match conf.get("capabilities") {
        None | Some(Value::Null) => Some(BTreeSet::new()),
        Some(Value::Object(all)) => {
            let on = all.iter().filter(|(_, on)| **on == Value::Bool(true));
            Some(on.map(|(name, _)| name.clone()).collect())
        }
        Some(_) => None,
    }
}

impl PluginConf {
    pub(crate) fn read(mut conf: Map<String, Value>) -> Result<Self, String> {
        let kind = match conf.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            Some(_) => return Err("a plugin's type is not a text".into()),
            None => return Err("a plugin has no type".into()),
        };
        // It names a program: nothing but a name in the plugins' directories (CVE-2021-20206).
        if kind.is_empty() || kind.starts_with('.') || kind.contains(['/', '\0']) || kind.len() > 255 {
            return Err(format!("the plugin type {kind:?} is no program's name"));
        }
        conf.remove("name");
        conf.remove("cniVersion");
        // Keys that a runtime generates; what a file has of them is nobody's.
        for key in ["runtimeConfig", "prevResult"] {
            if conf.contains_key(key) {
                return Err(format!("plugin {kind}: {key} is not for files, the runtime makes it"));
            }
        }
        let no_object = || format!("plugin {kind}: capabilities is no object");
        let capabilities = declared(&conf).ok_or_else(no_object)?;
        let known = Known::read(&conf);
        Ok(Self { kind, capabilities, conf, known })
    }

    /// The program that gives addresses, where the plugin names one.
    pub fn ipam(&self) -> Option<&str> {
        self.conf.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
    }
}

impl<'de> Deserialize<'de> for PluginConf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::read(Map::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl Serialize for PluginConf {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.conf.serialize(to)
    }
}

/// From 1.
fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// Letters, digits, `_`, `.` and `-`, a letter or digit first: it becomes part of paths.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    match first && name.bytes().all(good) && name.len() <= 255 {
        true => Ok(name),
        false => Err(de::Error::custom(format!(
            "the network's name {name:?} is not of letters, digits, \"_\", \".\" and \"-\" with a letter or digit first"
        ))),
    }
}

/// `true` and, as CNI 0.4 had it, `"true"`.
fn switch<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(on) => Ok(on),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        Value::Null => Ok(false),
        other => Err(de::Error::custom(format!("{other} is neither true nor false"))),
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(rename = "cniVersion", default, deserialize_with = "none_is_empty")]
    version: String,
    #[serde(rename = "cniVersions", default, deserialize_with = "none_is_empty")]
    versions: Vec<String>,
    #[serde(rename = "disableCheck", default, deserialize_with = "switch")]
    disable_check: bool,
    #[serde(rename = "disableGC", default, deserialize_with = "switch")]
    disable_gc: bool,
    #[serde(rename = "loadOnlyInlinedPlugins", default, deserialize_with = "switch")]
    only_inlined: bool,
    /// As written, so that what is wrong within can be told with its line.
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
}

impl Header<'_> {
    /// One version that Berth speaks is enough; without any word it is the first (CNI's own reading).
    fn versions(&self) -> Result<Vec<Version>, String> {
        let told = self.versions.iter().chain(Some(&self.version).filter(|text| !text.is_empty()));
        let read: Vec<_> = told.map(|text| text.parse::<Version>()).collect();
        let mut good: Vec<Version> =
            read.iter().filter_map(|version| version.as_ref().ok().copied()).collect();
        good.sort_unstable();
        good.dedup();
        match (good.is_empty(), read.into_iter().find_map(Result::err)) {
            (true, Some(unknown)) => Err(unknown.to_string()),
            (true, None) => Ok(vec![Version::V0_1_0]),
            (false, _) => Ok(good),
        }
    }
}

impl NetworkConf {
    /// Reads a file's text: a list of plugins, or one plugin with the network's name in it.
    pub fn read(path: &Path, text: &[u8]) -> Result<Self, ConfError> {
        let wrong = |error| ConfError::json(path, &error);
        let text = std::str::from_utf8(text).map_err(|error| {
            let line = Some(line_of(text, error.valid_up_to()));
            ConfError { line, ..ConfError::new(path, "is no UTF-8 here") }
        })?;
        let header: Header<'_> = serde_json::from_str(text).map_err(wrong)?;
        let whole: Map<String, Value> = serde_json::from_str(text).map_err(wrong)?;
        let refuse = |problem| ConfError::new(path, problem);
        let versions = header.versions().map_err(refuse)?;
        let mut plugins = Vec::new();
        for raw in header.plugins.unwrap_or_default() {
            let offset = raw.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
            let line = Some(line_of(text.as_bytes(), offset));
            let conf: Map<String, Value> = serde_json::from_str(raw.get())
                .map_err(|error| ConfError { line, ..ConfError::json(path, &error) })?;
            plugins.push(PluginConf::read(conf).map_err(|problem| ConfError { line, ..refuse(problem) })?);
        }
        let single = !whole.contains_key("plugins") && whole.contains_key("type");
        if single {
            plugins.push(PluginConf::read(whole).map_err(refuse)?);
        }
        Ok(Self {
            name: header.name,
            versions,
            disable_check: header.disable_check,
            disable_gc: header.disable_gc,
            load_from_directory: !single && !header.only_inlined,
            plugins,
        })
    }

    /// Reads a file that has one plugin for a network whose other plugins are elsewhere.
    pub fn read_plugin(path: &Path, text: &[u8]) -> Result<PluginConf, ConfError> {
        serde_json::from_slice(text).map_err(|error| ConfError::json(path, &error))
    }

    /// What can be seen only once every plugin is there.
    pub(crate) fn check(&self, path: &Path) -> Result<(), ConfError> {
        match self.plugins.len() {
            0 => Err(ConfError::new(path, "there is no plugin in it")),
            1 => Ok(()),
            count if count > PLUGINS_MAX => {
                Err(ConfError::new(path, format!("it has {count} plugins; {PLUGINS_MAX} are the most")))
            }
            _ if self.versions.iter().all(|version| !version.has_chains()) => Err(ConfError::new(
                path,
                format!("chains of plugins came with CNI 0.3.0; it is written for {}", self.versions[0]),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NetworkConf, String> {
        let path = Path::new("/etc/cni/net.d/10-a.conflist");
        let read = NetworkConf::read(path, text.as_bytes());
        read.and_then(|conf| conf.check(path).map(|()| conf)).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_and_single_plugins() {
        let list = read(
            r#"{ "cniVersion": "0.4.0", "cniVersions": ["1.1.0", "9.0.0"], "name": "a", "disableCheck": "true",
                "plugins": [{ "type": "bridge", "name": "x" }, { "type": "portmap",
                "capabilities": { "portMappings": true, "dns": false } }] }"#,
        )
        .unwrap();
        assert_eq!(list.versions, [Version::V0_4_0, Version::V1_1_0]);
        assert!(list.disable_check && !list.disable_gc && list.load_from_directory);
        assert_eq!(list.plugins[1].capabilities, BTreeSet::from(["portMappings".to_owned()]));
        assert!(!list.plugins[0].conf.contains_key("name"));
        let one = read(r#"{ "name": "a", "type": "loopback" }"#).unwrap();
        assert_eq!((one.plugins[0].kind.as_str(), &one.versions[..]), ("loopback", &[Version::V0_1_0][..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("{\n\"name\": \"a\",\n\"plugins\": [\n", "conflist:4: EOF"),
            ("{\n\"name\": \"../a\",\n\"plugins\": []}", "conflist:2: the network's name"),
            ("{ \"name\": \"a\",\n\"plugins\": [\n{ \"x\": 1 }\n] }", "conflist:3: a plugin has no type"),
            ("{ \"name\": \"a\",\n\"plugins\": [ { \"type\": \"../x\" } ] }", "conflist:2: the plugin type"),
            ("{ \"plugins\": [] }", "conflist:1: missing field `name`"),
            ("{ \"name\": \"a\",\n \"disableCheck\": 3, \"plugins\": [] }", "conflist:2: 3 is neither"),
            (
                "{ \"name\": \"a\", \"cniVersion\": \"2.0.0\", \"type\": \"x\" }",
                "conflist: CNI version \"2.0.0\"",
            ),
            ("{ \"name\": \"a\", \"plugins\": [] }", "conflist: there is no plugin"),
            (
                "{ \"name\": \"a\", \"cniVersion\": \"0.2.0\", \"plugins\": [{\"type\":\"a\"},{\"type\":\"b\"}] }",
                "conflist: chains of plugins came with",
            ),
            (
                "{ \"name\": \"a\", \"type\": \"x\", \"prevResult\": {} }",
                "plugin x: prevResult is not for files",
            ),
            ("[]", "conflist:1: invalid"),
            ("{ \"name\": \"a\",\n\n\"plugins\": [ 3 ] }", "conflist:3: invalid type"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(told), "{told:?} is not in {said:?}");
        }
    }
}
