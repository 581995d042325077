use std::fmt;

use serde::{Deserialize, Serialize};

/// A Linux signal number, 1 to 64 (signal(7); SIGRTMIN is 34 in glibc's and musl's eyes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(u8);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalError(pub String);

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a signal name or a number from 1 to 64", self.0)
    }
}

impl std::error::Error for SignalError {}

const NAMES: [(&str, u8); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    // second names
    ("IOT", 6),
    ("CLD", 17),
    ("POLL", 29),
];
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    pub const TERM: Self = Self(15);
    pub const KILL: Self = Self(9);

    /// `SIGTERM`, `TERM`, `15`, `RTMIN+3`, `SIGRTMAX-2`: the forms that images and CRI use.
    pub fn parse(text: &str) -> Result<Self, SignalError> {
        let fail = || SignalError(text.to_owned());
        if let Ok(number) = text.parse::<u8>() {
            return Self::from_number(number.into()).ok_or_else(fail);
        }
        let upper = text.to_ascii_uppercase();
        // CRI's enum spells offsets as SIGRTMINPLUS3 and SIGRTMAXMINUS2.
        let name = upper.strip_prefix("SIG").unwrap_or(&upper).replace("PLUS", "+").replace("MINUS", "-");
        if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(number));
        }
        let offset = |rest: &str, sign: char| match rest {
            "" => Some(0),
            _ => rest.strip_prefix(sign).and_then(|digits| digits.parse::<u8>().ok()),
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').and_then(|n| RTMIN.checked_add(n))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').and_then(|n| RTMAX.checked_sub(n))
        } else {
            None
        };
        number.filter(|n| (RTMIN..=RTMAX).contains(n)).map(Self).ok_or_else(fail)
    }

    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=RTMAX).contains(n)).map(Self)
    }

    pub fn number(self) -> i32 {
        self.0.into()
    }

    /// `SIGTERM`, `SIGRTMIN+3`, …
    pub fn name(self) -> String {
        match NAMES.iter().find(|(_, n)| *n == self.0) {
            Some((name, _)) => format!("SIG{name}"),
            None if self.0 == RTMIN => "SIGRTMIN".into(),
            None if self.0 == RTMAX => "SIGRTMAX".into(),
            None if self.0 <= RTMIN + 15 => format!("SIGRTMIN+{}", self.0.saturating_sub(RTMIN)),
            None => format!("SIGRTMAX-{}", RTMAX - self.0),
        }
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::TERM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_signal() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGCLD", 17),
            ("SIGPOLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS15", 49),
            ("SIGRTMAXMINUS14", 50),
            ("SIGRTMAX", 64),
            ("64", 64),
        ] {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN+31", "RTMAX-31", "-1", "RTMIN3"] {
            assert!(Signal::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_parse_back() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(Signal::parse(&signal.name()), Ok(signal), "{}", signal.name());
        }
    }
}
