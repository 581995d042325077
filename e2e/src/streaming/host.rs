//! Port-forward to where no container listens: the host's own loopback, of both IP versions.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};

use anyhow::Result;
use berth_cri_api::v1::*;

use super::{Lane, Over, blocking, client_of};
use crate::client::of_host;
use crate::daemon::Daemon;

/// Echoes any number of connections, each to its end; the port it listens on. It ends with the lane.
fn echo(address: SocketAddr) -> io::Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || -> io::Result<()> {
                let mut stream = stream?;
                let mut back = stream.try_clone()?;
                io::copy(&mut stream, &mut back)?;
                back.shutdown(Shutdown::Write)
            });
        }
    });
    Ok(port)
}

pub(super) async fn run(lane: &mut Lane<'_>, daemon: &Daemon) -> Result<()> {
    let id = lane.client.run_pod(&of_host("host-net", &daemon.path("logs"))).await?;
    for (over, address, what) in [
        (Over::Spdy, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "127.0.0.1"),
        (Over::WebSocket, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), "::1, where 127.0.0.1 refuses"),
    ] {
        let port = echo(address)?;
        let request = PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![port.into()] };
        let url = lane.client.runtime.port_forward(request).await?.into_inner().url;
        let words = port.to_string();
        let answer =
            blocking(move || client_of(&over.words("forward", &["-port", &words, "-mib", "4"]), &url))
                .await?;
        let what = format!("{}: a port of the host's network at {what}", over.name());
        lane.checks.that(&what, answer.code == 0, answer.text());
    }
    lane.client.remove_pod(&id).await
}
