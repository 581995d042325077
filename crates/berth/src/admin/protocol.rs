//! Requests and replies, and how they travel.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

pub(crate) use berth_ids::chain;

use super::images::ImageVerb;

/// A request is one packet of at most this many bytes.
pub(super) const REQUEST_MAX: usize = 32 * 1024;
/// Bytes of a reply in one packet: well below any socket buffer.
pub(super) const CHUNK: usize = 32 * 1024;
/// A longer reply is refused by the client.
pub(super) const REPLY_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// About images; an archive's descriptor travels beside those that have one.
    Image {
        ask: ImageVerb,
    },
    Status {},
    Reset {},
    /// Of the instance, or of one pod by name or id.
    NetworkInspect {
        pod: Option<String>,
    },
    NetworkCheck {
        pod: String,
    },
    NetworkReset {},
    /// To a container's first process, by signal(7)'s number.
    Signal {
        container: String,
        signal: i32,
    },
}

impl Request {
    /// Whether a descriptor travels with it.
    fn carries(&self) -> Option<&'static str> {
        match self {
            Self::Image { ask } => ask.carries(),
            _ => None,
        }
    }

    /// Nobody waits for it but the one who asked: it ends with the connection.
    pub(super) fn ends_with_client(&self) -> bool {
        matches!(self, Self::Image { ask } if ask.ends_with_client())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum Reply {
    Done {
        value: serde_json::Value,
    },
    /// The whole chain of causes in one line.
    Failed {
        error: String,
    },
}

/// Why a packet is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("receive the request")]
    Receive(#[source] io::Error),
    #[error("the request is not understood")]
    Decode(#[source] serde_json::Error),
    #[error("{verb} needs exactly one descriptor, {came} came")]
    Descriptors { verb: &'static str, came: usize },
}

/// Sends a request; the descriptor is copied by the kernel.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    request: &Request,
    archive: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    berth_sys::fd::send_packet(socket, &bytes, archive.as_slice())
}

/// Understands one packet.
pub(super) fn decode(
    bytes: &[u8],
    mut fds: Vec<OwnedFd>,
) -> Result<(Request, Option<OwnedFd>), RequestError> {
    let request: Request = serde_json::from_slice(bytes).map_err(RequestError::Decode)?;
    match (request.carries(), fds.len()) {
        (Some(_), 1) => Ok((request, fds.pop())),
        (Some(verb), came) => Err(RequestError::Descriptors { verb, came }),
        (None, _) => Ok((request, None)),
    }
}
