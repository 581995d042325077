//! Connections into a pod's network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::ShimError;
use crate::pod::ShimPod;

/// How long one of the two addresses may take to answer. Both are the pod's own loopback: only a full backlog takes time.
const PATIENCE: Duration = Duration::from_secs(5);

impl ShimPod {
    /// A connected, non-blocking socket to the pod's 127.0.0.1, else its ::1.
    pub async fn connect(&self, port: u16) -> Result<OwnedFd, ShimError> {
        let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match self.connect_to(first).await? {
            Ok(connected) => Ok(connected),
            Err(source) => match self.connect_to(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
                Ok(Ok(connected)) => Ok(connected),
                // Most servers listen at the first: its error says more. The second may be unknown to the kernel.
                _ => Err(ShimError::Connect { address: first, source }),
            },
        }
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<io::Result<OwnedFd>, ShimError> {
        let socket = TcpSocket::from_std_stream(TcpStream::from(self.socket(address.is_ipv6()).await?));
        let connect = async {
            let stream = socket.connect(address).await?;
            // A keystroke is sent when it comes.
            stream.set_nodelay(true)?;
            Ok(OwnedFd::from(stream.into_std()?))
        };
        Ok(timeout(PATIENCE, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }
}
