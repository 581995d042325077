//! Arguments of the verbs, understood.

use std::path::Path;

use berth_cri_api::v1::{KeyValue, Mount, PortMapping};
use clap::ArgMatches;

use crate::{ClientError, parse};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullWhen {
    Missing,
    Always,
    Never,
}

#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) image: String,
    pub(crate) args: Vec<String>,
    pub(crate) interactive: bool,
    pub(crate) tty: bool,
    pub(crate) remove: bool,
    pub(crate) detach: bool,
    pub(crate) name: Option<String>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) envs: Vec<KeyValue>,
    /// Bytes; 0 is no limit.
    pub(crate) memory: i64,
    /// Microseconds of each 100 ms; 0 is no limit.
    pub(crate) cpu_quota: i64,
    pub(crate) workdir: String,
    pub(crate) user: Option<parse::User>,
    pub(crate) entrypoint: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) pull: PullWhen,
    pub(crate) host_network: bool,
    pub(crate) privileged: bool,
    pub(crate) read_only: bool,
}

fn texts<'a>(matches: &'a ArgMatches, name: &str) -> impl Iterator<Item = &'a String> {
    matches.get_many::<String>(name).into_iter().flatten()
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// Understands each value of an option, or says which option it was.
fn each<T>(
    matches: &ArgMatches,
    name: &'static str,
    understand: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ClientError> {
    let option = |text: &String| {
        understand(text).map_err(|problem| ClientError::Option {
            option: typed(name),
            problem: format!("{text:?} {problem}"),
        })
    };
    texts(matches, name).map(option).collect()
}

/// What a person types for an argument: `--name` is the instance's everywhere else.
fn typed(argument: &'static str) -> &'static str {
    if argument == "as" { "name" } else { argument }
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Run, ClientError> {
    let here = std::env::current_dir().unwrap_or_default();
    let one = |name, understand: fn(&str) -> Result<i64, String>| {
        each(matches, name, understand).map(|values| values.last().copied().unwrap_or(0))
    };
    Ok(Run {
        image: text(matches, "IMAGE").unwrap_or_default(),
        args: texts(matches, "COMMAND").cloned().collect(),
        interactive: matches.get_flag("interactive"),
        tty: matches.get_flag("tty"),
        remove: matches.get_flag("rm"),
        detach: matches.get_flag("detach"),
        name: each(matches, "as", parse::name)?.pop(),
        ports: each(matches, "publish", parse::port)?,
        mounts: each(matches, "volume", |text| parse::volume(text, Path::new(&here)))?,
        envs: each(matches, "env", |text| Ok(parse::env(text, |name| std::env::var(name).ok())))?
            .into_iter()
            .flatten()
            .collect(),
        memory: one("memory", parse::bytes)?,
        cpu_quota: one("cpus", parse::cpus)?,
        workdir: text(matches, "workdir").unwrap_or_default(),
        user: each(matches, "user", parse::user)?.pop(),
        entrypoint: text(matches, "entrypoint"),
        hostname: text(matches, "hostname"),
        pull: match text(matches, "pull").as_deref() {
            Some("always") => PullWhen::Always,
            Some("never") => PullWhen::Never,
            _ => PullWhen::Missing,
        },
        host_network: matches.get_flag("host-network"),
        privileged: matches.get_flag("privileged"),
        read_only: matches.get_flag("read-only"),
    })
}

#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) interactive: bool,
    pub(crate) tty: bool,
}

pub(crate) fn exec(matches: &ArgMatches) -> Exec {
    Exec {
        name: name(matches),
        command: texts(matches, "COMMAND").cloned().collect(),
        interactive: matches.get_flag("interactive"),
        tty: matches.get_flag("tty"),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Logs {
    pub(crate) name: String,
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail: Option<usize>,
}

pub(crate) fn logs(matches: &ArgMatches) -> Logs {
    Logs {
        name: name(matches),
        follow: matches.get_flag("follow"),
        timestamps: matches.get_flag("timestamps"),
        tail: matches.get_one::<usize>("tail").copied(),
    }
}

pub(crate) fn name(matches: &ArgMatches) -> String {
    text(matches, "CONTAINER").unwrap_or_default()
}

pub(crate) fn names(matches: &ArgMatches) -> Vec<String> {
    texts(matches, "CONTAINER").cloned().collect()
}

/// Seconds.
pub(crate) fn grace(matches: &ArgMatches) -> i64 {
    matches.get_one::<u32>("time").map_or(10, |seconds| i64::from(*seconds))
}
