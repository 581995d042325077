//! The person's terminal: as it is for programs that want every key, and back.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;

use nix::sys::termios::{self, SetArg, Termios};

use crate::ClientError;
use crate::output::tell;

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

/// Asks for a user's password, which is not shown.
pub(crate) fn ask_password(user: &str) -> Result<String, ClientError> {
    // Keys as the terminal sends them.
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const ERASE: [u8; 2] = [8, 127];
    if !is_stdin() {
        let problem = "standard input is no terminal to ask for the password; see --creds-stdin".to_owned();
        return Err(ClientError::Option { option: "creds", problem });
    }
    tell(&format!("password of {user}: "));
    let raw = Raw::enter()?;
    let mut bytes = Vec::new();
    let mut key = [0];
    let asked = loop {
        match io::stdin().read(&mut key) {
            Ok(0) => break Err(ClientError::NoTerminal),
            Ok(_) => {}
            Err(source) => break Err(ClientError::Io { doing: "read the password", source }),
        }
        match key[0] {
            b'\r' | b'\n' | END => break Ok(()),
            INTERRUPT => break Err(ClientError::Signalled(2)),
            key if ERASE.contains(&key) => drop(bytes.pop()),
            letter => bytes.push(letter),
        }
    };
    drop(raw);
    tell("\n");
    asked.map(|()| String::from_utf8_lossy(&bytes).into_owned())
}

/// Columns and rows.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = berth_sys::tty::size(io::stdin().as_fd()).ok();
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0)
}
