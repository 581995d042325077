//! The person's terminal: as it is for programs that want every key, and back.

use std::io;
use std::os::fd::AsFd as _;

use nix::sys::termios::{self, SetArg, Termios};

use crate::ClientError;

pub(crate) fn is_stdin() -> bool {
    io::IsTerminal::is_terminal(&io::stdin())
}

/// Raw mode of standard input's terminal; dropping it brings the former mode back.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    pub(crate) fn enter() -> Result<Self, ClientError> {
        let fail = |error: nix::Error| ClientError::Io { doing: "set the terminal", source: error.into() };
        let before = termios::tcgetattr(io::stdin()).map_err(fail)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).map_err(fail)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal is gone: then so is its mode.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Columns and rows.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = berth_sys::tty::size(io::stdin().as_fd()).ok();
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0)
}
