use std::os::fd::AsFd as _;

use berth_client::Show;
use berth_model::Direction;
use clap::{Arg, ArgMatches, Command};

use super::watch::Watched;
use super::{CliError, draw, name, open, password, print};
use crate::admin::ImageVerb;
use crate::config::Config;

pub(super) fn command() -> Command {
    Command::new("push")
        .about("Send an image to a registry: what is stored here, or what is in an archive")
        .after_help(
            "Layers that the registry has are not sent, and those that another of its repositories is known to have are taken \
             from there. Compressed layers are not kept on the node. So an image goes out under the manifest by which a \
             registry is known to have it, with its digest, where that registry still has every layer; else its layers are \
             compressed anew (gzip, always to the same bytes) under a new manifest: the digest is another, the image's id is \
             the same. With --archive an OCI layout is sent byte by byte, indexes with all their images; what docker save wrote \
             has its layers compressed.\n\nCtrl-C ends the push. What has arrived by then need not be sent again. \
             Layers that are compressed anew take room in the data directory until they are sent, two at a time.",
        )
        .args(berth_client::login_arguments())
        .arg(
            Arg::new("archive")
                .long("archive")
                .value_name("FILE")
                .help("What is in this archive or directory; - is standard input")
                .conflicts_with("creds-stdin"),
        )
        .arg(super::json_flag("A list of what was pushed, for programs; no progress"))
        .arg(
            Arg::new("IMAGE")
                .required_unless_present("archive")
                .help("A name or an id; with --archive, where to push what is in it"),
        )
        .arg(Arg::new("DESTINATION").help("[HOST/]REPOSITORY[:TAG]; else what the image is called"))
}

pub(in super::super) fn push(config: &Config, matches: &ArgMatches) -> Result<(), CliError> {
    let login = password(matches, "image push")?;
    let to = matches.get_one::<String>("DESTINATION").cloned();
    let socket = config.admin_socket();
    let as_json = matches.get_flag("json");
    let show = if as_json { Show::nothing() } else { Show::to_stderr() };
    let watched = |of| Watched { socket: &socket, direction: Direction::Push, of };
    let pushed = match matches.get_one::<String>("archive") {
        None => {
            let of = to.clone().unwrap_or_else(|| name(matches));
            let verb = ImageVerb::Push { image: name(matches), to, login };
            watched(Some(&of)).ask(verb, None, show)?
        }
        Some(_) if to.is_some() => return Err(CliError::OneDestination),
        Some(path) => {
            let to = matches.get_one::<String>("IMAGE").cloned();
            let file = open(path)?;
            let verb = ImageVerb::PushArchive { to: to.clone(), login };
            watched(to.as_deref()).ask(verb, Some(file.as_fd()), show)?
        }
    };
    match as_json {
        true => print(&format!("{pushed:#}\n")),
        false => print(&draw::pushed(&pushed)),
    }
}
