use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use berth_client::Show;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::super::client::transfers;
use super::{CliError, draw, name, password, print};
use crate::admin::ImageVerb;
use crate::admin::client::{AskError, ask};
use crate::admin::protocol::Request;
use crate::config::Config;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

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
    let pushed = match matches.get_one::<String>("archive") {
        None => {
            let watched = to.clone().unwrap_or_else(|| name(matches));
            let ask = ImageVerb::Push { image: name(matches), to, login };
            watch(&socket, Some(&watched), show, || {
                crate::admin::client::ask(&socket, &Request::Image { ask }, None)
            })?
        }
        Some(_) if to.is_some() => return Err(CliError::OneDestination),
        Some(path) => {
            let to = matches.get_one::<String>("IMAGE").cloned();
            let opened = match path.as_str() {
                "-" => std::io::stdin().as_fd().try_clone_to_owned().map(File::from),
                path => File::open(path),
            };
            let file = opened.map_err(|source| CliError::Open { path: path.to_owned(), source })?;
            let request = Request::Image { ask: ImageVerb::PushArchive { to: to.clone(), login } };
            watch(&socket, to.as_deref(), show, || ask(&socket, &request, Some(file.as_fd())))?
        }
    };
    match as_json {
        true => print(&format!("{pushed:#}\n")),
        false => print(&draw::pushed(&pushed)),
    }
}

/// Asks, and shows how far it is meanwhile; without a name, the newest push.
fn watch(
    socket: &Path,
    of: Option<&str>,
    mut show: Show,
    asking: impl FnOnce() -> Result<Value, AskError> + Send,
) -> Result<Value, CliError> {
    let Some(of) = of.filter(|_| show.is_shown()) else { return Ok(asking()?) };
    let before: Vec<u64> =
        transfers(socket, of).iter().filter(|one| one.ended).map(|one| one.number).collect();
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        scope.spawn(move || {
            // Whoever waits is there until it comes.
            let _ = tell.send(asking());
        });
        loop {
            let over = match told.recv_timeout(LOOK) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(CliError::Lost),
            };
            let all = transfers(socket, of);
            if let Some(own) = all.iter().rfind(|one| one.push && !before.contains(&one.number)) {
                show.update(own);
            }
            if let Some(answer) = over {
                show.clear();
                return Ok(answer?);
            }
        }
    })
}
