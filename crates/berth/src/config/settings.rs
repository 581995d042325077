//! Settings with their origin, before they are understood.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::table::{Default, Form, SETTINGS, Setting};
use super::{ConfigError, error, file};

/// Files read when no other is named.
const FILE: &str = "/etc/berth/config.toml";
const DROP_INS: &str = "/etc/berth/conf.d";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<String>),
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// From other settings, named here.
    Derived(&'static str),
    /// Line and column count from 1, columns in characters.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    Environment(String),
    Flag(String),
}

/// Everything that can set something, gathered by the command line.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// In place of the files under /etc/berth. It must exist.
    pub(crate) file: Option<PathBuf>,
    /// All `BERTH_*` variables.
    pub(crate) environment: Vec<(String, String)>,
    /// Key of the setting and the flag's value.
    pub(crate) flags: Vec<(&'static str, String)>,
}

/// Every setting of the table with its value and origin.
#[derive(Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// Odd but no reason to refuse: variables that look like settings and are none.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Merges the sources in their order.
    pub(crate) fn gather(sources: &Sources) -> Result<Self, ConfigError> {
        let mut settings = Self { values: BTreeMap::new(), warnings: Vec::new() };
        match &sources.file {
            Some(path) => settings.take_file(path.clone(), true)?,
            None => {
                settings.take_file(FILE.into(), false)?;
                for path in drop_ins()? {
                    settings.take_file(path, true)?;
                }
            }
        }
        settings.take_environment(&sources.environment)?;
        for (key, text) in &sources.flags {
            if let Some(setting) = Setting::find(key) {
                settings.take_text(setting, text, Origin::Flag(format!("--{}", setting.flag())))?;
            }
        }
        settings.fill_in()?;
        Ok(settings)
    }

    /// The value and where it came from.
    pub(super) fn get(&self, key: &str) -> Option<&(Value, Origin)> {
        self.values.get(key)
    }

    /// A text the table lists further up than the setting that asks; "" if it is no text.
    pub(super) fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some((Value::Text(text), _)) => text,
            _ => "",
        }
    }

    /// Understands one value.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        parse: fn(&Value) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (value, origin) = self.get(key).ok_or(ConfigError::NoSuchSetting { key })?;
        parse(value).map_err(|problem| ConfigError::Value { key, origin: origin.clone(), problem })
    }

    fn take_file(&mut self, path: PathBuf, must_exist: bool) -> Result<(), ConfigError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        for (setting, value, origin) in file::settings(&path, &text)? {
            self.values.insert(setting.key, (value, origin));
        }
        Ok(())
    }

    fn take_environment(&mut self, variables: &[(String, String)]) -> Result<(), ConfigError> {
        for (name, text) in variables {
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *name) {
                self.take_text(setting, text, Origin::Environment(name.clone()))?;
            } else if name != "BERTH_CONFIG" {
                // Not refused: Kubernetes puts BERTH_SERVICE_HOST and the like into pods beside a service "berth".
                let known = SETTINGS.iter().map(Setting::variable);
                let hint =
                    error::nearest(name, known).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
                self.warnings.push(format!("the environment variable {name} sets nothing{hint}"));
            }
        }
        Ok(())
    }

    fn take_text(
        &mut self,
        setting: &'static Setting,
        text: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let value = from_text(setting.form, text).map_err(|problem| ConfigError::Value {
            key: setting.key,
            origin: origin.clone(),
            problem,
        })?;
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    fn fill_in(&mut self) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            if self.values.contains_key(setting.key) {
                continue;
            }
            match setting.default {
                Default::Fixed(text) => self.take_text(setting, text, Origin::Default)?,
                Default::Derived(derive, from) => {
                    let value = derive(self);
                    let derived = self.get(from).is_some_and(|(_, origin)| *origin != Origin::Default);
                    let origin = if derived { Origin::Derived(from) } else { Origin::Default };
                    self.values.insert(setting.key, (value, origin));
                }
            }
        }
        Ok(())
    }
}

/// A value as flags and the environment write it.
fn from_text(form: Form, text: &str) -> Result<Value, String> {
    match form {
        Form::Text => Ok(Value::Text(text.to_owned())),
        Form::Number => {
            text.parse().map(Value::Number).map_err(|_| format!("{text:?} is not a whole number"))
        }
        Form::Switch => match text {
            "true" => Ok(Value::Switch(true)),
            "false" => Ok(Value::Switch(false)),
            other => Err(format!("{other:?} is neither true nor false")),
        },
        Form::List => Ok(Value::List(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
        )),
    }
}

/// `*.toml` of the drop-in directory by name; none when the directory is not there.
fn drop_ins() -> Result<Vec<PathBuf>, ConfigError> {
    let fail = |source| ConfigError::Read { path: DROP_INS.into(), source };
    let entries = match std::fs::read_dir(DROP_INS) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(fail(source)),
    };
    let mut paths =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(from) => write!(f, "follows {from}"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}
