//! How the child tells what went wrong: small fixed records through a pipe that execve(2) closes.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_shim_wire::StepError;

/// A step that failed.
#[derive(Debug)]
pub struct Failed {
    pub step: &'static str,
    pub object: String,
    pub error: io::Error,
}

pub(crate) type Step<T> = Result<T, Failed>;

/// Names the step of an error.
pub(crate) trait At<T> {
    fn at(self, step: &'static str, object: impl AsRef<[u8]>) -> Step<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: &'static str, object: impl AsRef<[u8]>) -> Step<T> {
        self.map_err(|error| Failed {
            step,
            object: String::from_utf8_lossy(object.as_ref()).into_owned(),
            error,
        })
    }
}

impl<T> At<T> for Result<T, nix::Error> {
    fn at(self, step: &'static str, object: impl AsRef<[u8]>) -> Step<T> {
        self.map_err(io::Error::from).at(step, object)
    }
}

/// Longer objects are cut: one record must go through the pipe in one piece (pipe(7): PIPE_BUF).
const OBJECT_MAX: usize = 1024;

/// The child's end of the pipe.
#[derive(Debug)]
pub struct Report(pub OwnedFd);

impl Report {
    /// Something was clamped or skipped; the launch goes on.
    pub(crate) fn warn(&self, text: &str) {
        self.record(b'W', 0, text);
    }

    pub(crate) fn fail(&self, failed: &Failed) {
        let errno = failed.error.raw_os_error().unwrap_or(0);
        self.record(b'F', errno, &format!("{}\0{}", failed.step, failed.object));
    }

    fn record(&self, kind: u8, errno: i32, text: &str) {
        let text = &text.as_bytes()[..text.len().min(OBJECT_MAX)];
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&errno.to_le_bytes());
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text);
        // Nobody reads: the shim is gone, and so is the child in a moment.
        let _ = berth_sys::fd::write(self.0.as_fd(), &bytes);
    }
}

/// What came through the pipe until it closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub warnings: Vec<String>,
    /// `None`: execve(2) succeeded.
    pub failed: Option<StepError>,
}

impl Outcome {
    /// Of everything read; a record cut short counts as a failure without a cause.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut outcome = Self::default();
        while let [kind, rest @ ..] = bytes {
            let parts = rest.split_first_chunk::<4>().and_then(|(errno, rest)| {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
                Some((i32::from_le_bytes(*errno), String::from_utf8_lossy(text).into_owned(), rest))
            });
            let Some((errno, text, rest)) = parts else {
                outcome.failed.get_or_insert_with(|| StepError {
                    step: "the launch was cut off".into(),
                    object: String::new(),
                    errno: 0,
                });
                break;
            };
            bytes = rest;
            match kind {
                b'W' => outcome.warnings.push(text),
                _ => {
                    let (step, object) = text.split_once('\0').unwrap_or((&text, ""));
                    outcome.failed = Some(StepError { step: step.into(), object: object.into(), errno });
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_through() {
        let (reader, writer) = berth_sys::fd::pipe(None).unwrap();
        let report = Report(writer);
        report.warn("clamped");
        report.fail(&Failed { step: "mount", object: "/x".into(), error: io::Error::from_raw_os_error(13) });
        drop(report);
        let mut bytes = vec![0; 4096];
        let length = berth_sys::fd::read(&reader, &mut bytes).unwrap();
        let outcome = Outcome::parse(&bytes[..length]);
        assert_eq!(outcome.warnings, ["clamped"]);
        let failed = StepError { step: "mount".into(), object: "/x".into(), errno: 13 };
        assert_eq!(outcome.failed, Some(failed));
        assert!(Outcome::parse(&bytes[..length - 1]).failed.is_some());
        assert_eq!(Outcome::parse(&[]), Outcome::default());
    }
}
