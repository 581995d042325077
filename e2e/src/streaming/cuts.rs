//! Many clients that go at any moment: nothing of them stays.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context as _, Result};

use super::{Ask, Lane, blocking};
use crate::checks::until;
use crate::daemon::Daemon;

const CLIENTS: usize = 1000;

pub(super) async fn run(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid().context("no daemon runs")?;
    let descriptors = move || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let before = descriptors()?;
    let mut waiting = Vec::new();
    for number in 0..CLIENTS {
        let url = lane.url(Ask::Exec, &["/guest", "sleep", "6464"], "io").await?;
        waiting.push(tokio::spawn(blocking(move || cut(&url, number))));
    }
    let mut done = Ok(());
    for client in waiting {
        done = done.and(client.await?);
    }
    lane.checks.note(
        &format!("{CLIENTS} clients come and go at any moment"),
        done.map_err(|error| format!("{error:#}")),
    );
    let gone = lane.sleeps("6464", false).await;
    lane.checks.note("  none of their processes is left", gone.map_err(|error| format!("{error:#}")));
    let settled = until("the daemon to close their descriptors", || {
        let now = descriptors();
        async move { Ok((now? <= before + 4).then_some(())) }
    })
    .await;
    lane.checks.note(
        "  nor a descriptor",
        settled.map_err(|error| format!("{error:#}, {:?} of {before}", descriptors())),
    );
    Ok(())
}

/// Goes further with each number: not at all, in the middle of the request, after it, after the first word of the
/// server, with an order to go or without.
fn cut(url: &str, number: usize) -> Result<()> {
    let (host, path) = split(url)?;
    let mut stream = TcpStream::connect(host)?;
    let request = request(host, path);
    let step = number % 6;
    let much = if step == 0 { number % request.len() } else { request.len() };
    stream.write_all(&request.as_bytes()[..much])?;
    if step > 1 {
        let mut answer = vec![0; 1 + number % 300];
        let length = stream.read(&mut answer)?;
        anyhow::ensure!(length > 0, "the server said nothing");
    }
    match step {
        // Input, masked by zeros.
        3 => stream.write_all(&[0x82, 0x83, 0, 0, 0, 0, 0, b'x', b'y'])?,
        // Half of a frame.
        4 => stream.write_all(&[0x82, 0xfe, 0x10])?,
        // A close frame.
        5 => stream.write_all(&[0x88, 0x80, 0, 0, 0, 0])?,
        _ => {}
    }
    if number.is_multiple_of(2) {
        stream.shutdown(Shutdown::Write)?;
    }
    Ok(())
}

/// Host and path of a URL.
pub(super) fn split(url: &str) -> Result<(&str, &str)> {
    url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("a URL")
}

/// Asks for WebSocket.
pub(super) fn request(host: &str, path: &str) -> String {
    format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n\r\n"
    )
}
