//! What a person does with images beyond CRI.

mod archive;
mod draw;
mod push;
mod unfinished;
mod watch;

use std::fs::File;
use std::os::fd::AsFd as _;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

pub(super) use archive::{export, import, verify};
pub(super) use push::push;

use super::{CliError, json_flag, print};
use crate::admin::client::ask_about;
use crate::admin::{ArchivedImage, ImageVerb, Password};
use crate::config::Config;

/// The exit code of an explanation whose pull would fail.
const FAILS: u8 = 1;

pub(super) const HELP: &str = "\
An IMAGE is a name, a name with a digest, or an id or the beginning of one. Names may leave away docker.io, library/ and
latest. Progress goes to standard error: bars at a terminal, a line for each layer in a pipe. With --json there is none.";

/// The verbs below `image` that are not CRI's.
pub(super) fn commands() -> [Command; 8] {
    let image = || Arg::new("IMAGE").required(true).help("A name or an id");
    let inspect = Command::new("inspect")
        .about("Show what is known of images: names, layers, who shares and uses them, their configuration")
        .arg(image().num_args(1..))
        .arg(json_flag("A list of objects, for programs"));
    let prune = Command::new("prune")
        .about("Remove the images that no container uses; pinned ones stay")
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Only say which, and what would come free"),
        )
        .arg(json_flag("An object, for programs"));
    let explain = Command::new("explain")
        .about("Show where a pull would ask, with what, and try each step; exit code 1 when it would fail")
        .after_help(
            "Places are shown in the order in which a pull tries them. Credentials are told by where they are from, never \
             by what they are. At last the manifest is asked for as a pull does, which some registries count as one.",
        )
        .args(berth_client::login_arguments())
        .arg(Arg::new("IMAGE").required(true).help("[HOST/]REPOSITORY[:TAG][@DIGEST]"))
        .arg(json_flag("An object, for programs"));
    let tag = Command::new("tag")
        .about("Give an image one name more; an image that had the name loses it")
        .arg(image())
        .arg(Arg::new("NAME").required(true).help("[HOST/]REPOSITORY[:TAG]"));
    let [import, export, verify] = archive::commands();
    [push::command(), import, export, tag, verify, inspect, prune, explain]
}

/// A file or directory that is read through our descriptor: the daemon need not see its path, and `-`, standard input,
/// works the same.
fn open(path: &str) -> Result<File, CliError> {
    let opened = match path {
        "-" => std::io::stdin().as_fd().try_clone_to_owned().map(File::from),
        path => File::open(path),
    };
    opened.map_err(|source| CliError::Open { path: path.to_owned(), source })
}

fn password(matches: &ArgMatches, verb: &'static str) -> Result<Option<Password>, CliError> {
    let login = berth_client::login(matches).map_err(|source| CliError::Client { verb, source })?;
    Ok(login.map(|(username, password)| Password { username, password }))
}

fn about(config: &Config, verb: ImageVerb) -> Result<Value, CliError> {
    Ok(ask_about(&config.admin_socket(), verb, None)?)
}

fn name(matches: &ArgMatches) -> String {
    matches.get_one::<String>("IMAGE").cloned().unwrap_or_default()
}

pub(super) fn tag(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let called = matches.get_one::<String>("NAME").cloned().unwrap_or_default();
    let tagged = about(config, ImageVerb::Tag { image: name(matches), name: called })?;
    let tagged: ArchivedImage = archive::understood(tagged)?;
    print(&format!("{} {}\n", tagged.id, tagged.names.join(" ")))
}

pub(super) fn inspect(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let mut found = Vec::new();
    for image in matches.get_many::<String>("IMAGE").into_iter().flatten() {
        found.push(about(config, ImageVerb::Inspect { image: image.clone() })?);
    }
    if matches.get_flag("json") {
        return print(&format!("{:#}\n", Value::from(found)));
    }
    let drawn: Vec<String> = found.iter().map(draw::image).collect();
    print(&drawn.join("\n"))
}

pub(super) fn prune(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let pruned = about(config, ImageVerb::Prune { dry_run: matches.get_flag("dry-run") })?;
    match matches.get_flag("json") {
        true => print(&format!("{pruned:#}\n")),
        false => print(&draw::pruned(&pruned)),
    }
}

pub(super) fn explain(config: &Config, matches: &ArgMatches) -> Result<u8, CliError> {
    let login = password(matches, "image explain")?;
    let found = about(config, ImageVerb::Explain { image: name(matches), login })?;
    match matches.get_flag("json") {
        true => print(&format!("{found:#}\n"))?,
        false => print(&draw::explanation(&found))?,
    }
    Ok(if found["works"] == true { 0 } else { FAILS })
}
