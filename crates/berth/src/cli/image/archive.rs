//! Images as archives, and what is unpacked of them.

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{CliError, print};
use crate::admin::client::{AskError, ask};
use crate::admin::protocol::Request;
use crate::admin::{ImportedImage, VerifiedLayer, VerifiedState};
use crate::config::Config;

/// The exit code of a verification that found damage.
const DAMAGED: u8 = 1;

/// The verbs below `image` that this file has.
pub(super) fn commands() -> [Command; 3] {
    let import = Command::new("import")
        .about("Take in OCI or `docker save` archives, or directories in OCI layout")
        .arg(
            Arg::new("FILE")
                .required(true)
                .num_args(1..)
                .help("Plain, gzip or zstd; - is standard input, a directory is read in place"),
        );
    let export = Command::new("export")
        .about("Write images as one archive that is an OCI layout and can be loaded by docker, too")
        .arg(Arg::new("IMAGE").required(true).num_args(1..).help("A name or an id"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .required(true)
                .help("- is standard output"),
        );
    let verify = Command::new("verify")
        .about("Compare what is unpacked with what was; exit code 1 where it differs")
        .arg(Arg::new("IMAGE").help("A name or an id; every image where none is given"))
        .arg(
            Arg::new("repair")
                .long("repair")
                .action(ArgAction::SetTrue)
                .help("Fetch damaged layers again, each alone, from where their images came"),
        )
        .arg(super::json_flag("A list of layers, for programs"));
    [import, export, verify]
}

/// The daemon reads the archive through our descriptor: it need not see the file's path, and stdin works the same. What
/// was read of several before one failed stays.
pub(super) fn import(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let socket = config.admin_socket();
    for path in matches.get_many::<String>("FILE").into_iter().flatten() {
        let reply = if path == "-" {
            ask(&socket, &Request::ImageImport {}, Some(std::io::stdin().as_fd()))?
        } else {
            let file = File::open(path).map_err(|source| CliError::Open { path: path.to_owned(), source })?;
            ask(&socket, &Request::ImageImport {}, Some(file.as_fd())).map_err(|error| match error {
                AskError::Refused(_) => CliError::Import { path: path.to_owned(), source: error },
                error => error.into(),
            })?
        };
        let images: Vec<ImportedImage> =
            serde_json::from_value(reply).map_err(|source| AskError::Decode { source })?;
        for image in images {
            print(&format!("{} {}\n", image.id, image.names.join(" ")))?;
        }
    }
    Ok(())
}

/// Into the caller's own file or pipe. A file is written beside and renamed, so that half an archive is never found under
/// the name.
pub(super) fn export(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let images = matches.get_many::<String>("IMAGE").into_iter().flatten().cloned().collect();
    let request = Request::ImageExport { images };
    let path = matches.get_one::<String>("output").map_or("-", String::as_str);
    if path == "-" {
        let out = std::io::stdout();
        if out.is_terminal() {
            return Err(CliError::Terminal);
        }
        ask(&config.admin_socket(), &request, Some(out.as_fd()))?;
        return Ok(());
    }
    let failed = |source| CliError::Open { path: path.to_owned(), source };
    let beside = format!("{path}.part");
    let file = File::create(&beside).map_err(failed)?;
    let done = ask(&config.admin_socket(), &request, Some(file.as_fd()));
    match done {
        Ok(_) => std::fs::rename(&beside, path).map_err(failed),
        Err(error) => {
            // What is left of it is of no use to anybody.
            let _ = std::fs::remove_file(&beside);
            Err(error.into())
        }
    }
}

pub(super) fn verify(config: &Config, matches: &ArgMatches) -> Result<u8, CliError> {
    let image = matches.get_one::<String>("IMAGE").cloned();
    let request = Request::ImageVerify { image, repair: matches.get_flag("repair") };
    let reply = ask(&config.admin_socket(), &request, None)?;
    let json = matches.get_flag("json").then(|| format!("{reply:#}\n"));
    let layers: Vec<VerifiedLayer> =
        serde_json::from_value(reply).map_err(|source| AskError::Decode { source })?;
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
