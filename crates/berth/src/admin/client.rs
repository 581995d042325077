//! The asking side; blocking, for the command line.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ImageVerb;
use super::protocol::{CHUNK, REPLY_MAX, Reply, Request, send};

/// Why the daemon's answer did not come, or what it said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens: no daemon runs on this state directory.
    #[error("no daemon answers at {}", path.display())]
    NoDaemon { path: PathBuf, source: io::Error },
    #[error("ask the daemon at {}", path.display())]
    Broken { path: PathBuf, source: io::Error },
    #[error("the daemon's answer is not understood")]
    Decode { source: serde_json::Error },
    /// The daemon's own words.
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon that listens at `path` and waits for as long as it takes.
pub(crate) fn ask(
    path: &Path,
    request: &Request,
    archive: Option<BorrowedFd<'_>>,
) -> Result<Value, AskError> {
    let fail = |source| AskError::Broken { path: path.to_owned(), source };
    let socket = berth_sys::fd::connect_seqpacket(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NoDaemon { path: path.to_owned(), source }
        }
        _ => fail(source),
    })?;
    berth_sys::fd::set_nonblocking(socket.as_fd(), false).map_err(fail)?;
    let bytes = exchange(&socket, request, archive).map_err(fail)?;
    match serde_json::from_slice(&bytes).map_err(|source| AskError::Decode { source })? {
        Reply::Done { value } => Ok(value),
        Reply::Failed { error } => Err(AskError::Refused(error)),
    }
}

/// [`ask`] about images.
pub(crate) fn ask_about(
    path: &Path,
    verb: ImageVerb,
    archive: Option<BorrowedFd<'_>>,
) -> Result<Value, AskError> {
    ask(path, &Request::Image { ask: verb }, archive)
}

pub(super) fn exchange(
    socket: &OwnedFd,
    request: &Request,
    archive: Option<BorrowedFd<'_>>,
) -> io::Result<Vec<u8>> {
    send(socket.as_fd(), request, archive)?;
    let (mut reply, mut packet) = (Vec::new(), vec![0; CHUNK]);
    loop {
        let (length, _) = berth_sys::fd::recv_packet(socket.as_fd(), &mut packet)?;
        match packet.get(..length) {
            Some([]) | None if reply.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some([]) | None => return Ok(reply),
            Some(bytes) => reply.extend_from_slice(bytes),
        }
        if reply.len() > REPLY_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}
