//! Images as archives, and what is unpacked of them.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use berth_client::{Show, readable};
use berth_model::Direction;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::unfinished::Unfinished;
use super::watch::Watched;
use super::{CliError, about, open, password, print};
use crate::admin::client::AskError;
use crate::admin::protocol::chain;
use crate::admin::{ArchivedImage, Compress, ExportedArchive, ImageVerb, VerifiedLayer, VerifiedState};
use crate::config::Config;

/// The exit code of a verification that found damage.
const DAMAGED: u8 = 1;

const NAMES: &str = "\
An image is called as the archive says: by RepoTags of docker save, by io.containerd.image.name, or by an \
org.opencontainers.image.ref.name that is a name. One that is a tag alone, such as v1.2 or latest, is no name: such an image is there \
by its id until `image tag` gives it one, or --as does, whose own tag counts before the archive's. Of an index only what runs on \
this machine is taken, so the archive may lack the rest.

One that fails does not keep the others. Ctrl-C ends the import; images that were whole by then stay.";

/// The verbs below `image` that this file has.
pub(super) fn commands() -> [Command; 3] {
    let import = Command::new("import")
        .about("Take in OCI or `docker save` archives, or directories in OCI layout")
        .arg(
            Arg::new("FILE")
                .required(true)
                .num_args(1..)
                .help("Plain, gzip or zstd; - is standard input, a directory is read in place"),
        )
        .arg(
            Arg::new("as")
                .long("as")
                .value_name("NAME")
                .help("[HOST/]REPOSITORY[:TAG] for an image that the archive gives no name"),
        )
        .arg(super::json_flag("An object for each archive at its end, for programs; no progress"))
        .after_help(NAMES);
    let export = Command::new("export")
        .about("Write images as one archive that is an OCI layout and can be loaded by docker, too, or as a directory")
        .arg(Arg::new("IMAGE").required(true).num_args(1..).help("A name or an id"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .required(true)
                .help("- is standard output; a directory, or a name that ends in /, has them as an OCI layout"),
        )
        .arg(
            Arg::new("compress")
                .long("compress")
                .value_name("HOW")
                .value_parser(["gzip", "zstd", "none"])
                .help("Else as the name says: .gz, .tgz, .zst"),
        )
        .arg(super::json_flag("An object about it at its end, for programs; no progress"))
        .after_help("Ctrl-C ends the export, and nothing is left under the file's name.");
    let verify = Command::new("verify")
        .about("Compare what is unpacked with what was; exit code 1 where it differs")
        .arg(Arg::new("IMAGE").help("A name or an id; every image where none is given"))
        .arg(
            Arg::new("repair")
                .long("repair")
                .action(ArgAction::SetTrue)
                .help("Fetch damaged layers again, each alone, from where their images came"),
        )
        .args(berth_client::login_arguments().map(|argument| argument.requires("repair")))
        .arg(super::json_flag("A list of layers, for programs"));
    [import, export, verify]
}

/// One after the other; what fails does not keep the others.
pub(in super::super) fn import(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let (socket, as_json) = (config.admin_socket(), matches.get_flag("json"));
    let (name, mut failed) = (matches.get_one::<String>("as"), Vec::new());
    for path in matches.get_many::<String>("FILE").into_iter().flatten() {
        let begin = Instant::now();
        let called = called(path, "standard input");
        let watched = Watched { socket: &socket, direction: Direction::Import, of: Some(&called) };
        let error = match import_one(path, name, &watched, show(as_json)) {
            Ok(images) if as_json => {
                let seconds = begin.elapsed().as_secs_f64();
                let line = json!({ "archive": path, "images": images, "seconds": seconds });
                print(&format!("{line}\n"))?;
                continue;
            }
            Ok(images) => {
                for image in images {
                    print(&format!("{} {}\n", image.id, image.names.join(" ")))?;
                    if image.names.is_empty() {
                        unnamed(&image.id);
                    }
                }
                continue;
            }
            Err(error @ CliError::Ask(AskError::NoDaemon { .. })) => return Err(error),
            Err(error) => error,
        };
        if as_json {
            print(&format!("{}\n", json!({ "archive": path, "error": chain(&error) })))?;
        }
        failed.push(error);
    }
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        _ => Err(CliError::Several { errors: failed }),
    }
}

fn show(as_json: bool) -> Show {
    if as_json { Show::nothing() } else { Show::to_stderr() }
}

/// What the daemon shows it as.
fn called(path: &str, stream: &str) -> String {
    if path == "-" { stream.to_owned() } else { path.to_owned() }
}

/// Beside the output, which a script reads.
#[expect(clippy::print_stderr, reason = "a hint to a person, as a failure's is")]
fn unnamed(id: &str) {
    eprintln!("berth: the archive has no name for it; `berth image tag {id} NAME` gives it one");
}

fn import_one(
    path: &str,
    name: Option<&String>,
    watched: &Watched<'_>,
    show: Show,
) -> Result<Vec<ArchivedImage>, CliError> {
    let file = open(path)?;
    let verb = ImageVerb::Import { called: watched.of.unwrap_or_default().to_owned(), name: name.cloned() };
    let answer = watched.ask(verb, Some(file.as_fd()), show).map_err(|error| match error {
        CliError::Ask(source @ AskError::Refused(_)) if path != "-" => {
            CliError::Import { path: path.to_owned(), source }
        }
        error => error,
    })?;
    understood(answer)
}

pub(super) fn understood<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, CliError> {
    Ok(serde_json::from_value(answer).map_err(|source| AskError::Decode { source })?)
}

/// How a file of this name is compressed.
fn suffix(path: &str) -> Option<Compress> {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| path.ends_with(suffix));
    match () {
        () if ends(&[".gz", ".tgz"]) => Some(Compress::Gzip),
        () if ends(&[".zst", ".tzst"]) => Some(Compress::Zstd),
        () => None,
    }
}

/// Into the caller's own file, directory or pipe. A file is written beside and renamed, so that half an archive is never found under
/// the name.
pub(in super::super) fn export(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let (socket, as_json, begin) = (config.admin_socket(), matches.get_flag("json"), Instant::now());
    let path = matches.get_one::<String>("output").map_or("-", String::as_str);
    let called = called(path, "standard output");
    let images = matches.get_many::<String>("IMAGE").into_iter().flatten().cloned().collect();
    let is_directory = path.ends_with('/') || Path::new(path).is_dir();
    let compress = match matches.get_one::<String>("compress").map(String::as_str) {
        Some("gzip") => Some(Compress::Gzip),
        Some("zstd") => Some(Compress::Zstd),
        Some(_) => None,
        None if is_directory => None,
        None => suffix(path),
    };
    if is_directory && compress.is_some() {
        return Err(CliError::CompressedDirectory);
    }
    let verb = ImageVerb::Export { images, called: called.clone(), compress };
    let watched = Watched { socket: &socket, direction: Direction::Export, of: Some(&called) };
    if path == "-" {
        let out = std::io::stdout();
        match () {
            () if as_json => return Err(CliError::TwoOutputs),
            () if out.is_terminal() => return Err(CliError::Terminal),
            () => watched.ask(verb, Some(out.as_fd()), show(as_json))?,
        };
        return Ok(());
    }
    let failed = |source| CliError::Open { path: path.to_owned(), source };
    let to = if is_directory { Unfinished::directory(path) } else { Unfinished::file(path) };
    let (unfinished, file) = to.map_err(failed)?;
    let exported: ExportedArchive = understood(watched.ask(verb, Some(file.as_fd()), show(as_json))?)?;
    unfinished.done().map_err(failed)?;
    if as_json {
        let mut said = json!(exported);
        (said["archive"], said["seconds"]) = (json!(path), json!(begin.elapsed().as_secs_f64()));
        return print(&format!("{said}\n"));
    }
    for image in &exported.images {
        print(&format!("{} {}\n", image.id, image.names.join(" ")))?;
    }
    let (layers, size) = (exported.layers, readable(exported.bytes));
    print(&format!("{layers} layer{}, {size} in {path}\n", if layers == 1 { "" } else { "s" }))
}

pub(in super::super) fn verify(config: &Config, matches: &ArgMatches) -> Result<u8, CliError> {
    let image = matches.get_one::<String>("IMAGE").cloned();
    let login = password(matches, "image verify")?;
    let reply = about(config, ImageVerb::Verify { image, repair: matches.get_flag("repair"), login })?;
    let json = matches.get_flag("json").then(|| format!("{reply:#}\n"));
    let layers: Vec<VerifiedLayer> = understood(reply)?;
    match json {
        Some(text) => print(&text)?,
        None => layers.iter().try_for_each(|layer| print(&line(layer)))?,
    }
    let damaged = layers.iter().any(|layer| layer.state == VerifiedState::Damaged);
    Ok(if damaged { DAMAGED } else { 0 })
}

fn line(layer: &VerifiedLayer) -> String {
    let state = match layer.state {
        VerifiedState::Whole => "whole",
        VerifiedState::Unrecorded => "not known: unpacked by an older release",
        VerifiedState::Damaged => "DAMAGED",
        VerifiedState::Repaired => {
            "repaired; containers that run keep the damaged one until they are restarted"
        }
    };
    let mut text = format!("{} {state} ({})\n", layer.layer, layer.images.join(" "));
    for found in &layer.found {
        text += &format!("  {found}\n");
    }
    if let Some(problem) = &layer.problem {
        text += &format!("  not repaired: {problem}\n");
    }
    text
}
