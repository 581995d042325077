use crate::ExitStatus;

/// How a container ended, as its shim leaves it in `<container id>.exit`: one line of words, for a daemon that finds
/// no shim to ask.
///
/// `berth-exit 1 <code> <signal> <oom 0|1> <nanoseconds since the epoch>`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    pub status: ExitStatus,
}

/// The bytes are no exit record of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoExitRecord;

impl ExitRecord {
    pub fn format(&self) -> String {
        let s = self.status;
        format!("berth-exit 1 {} {} {} {}\n", s.code, s.signal, u8::from(s.oom_killed), s.finished_at)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, NoExitRecord> {
        let text = std::str::from_utf8(bytes).map_err(|_| NoExitRecord)?;
        let mut words = text.strip_suffix('\n').ok_or(NoExitRecord)?.split(' ');
        if (words.next(), words.next()) != (Some("berth-exit"), Some("1")) {
            return Err(NoExitRecord);
        }
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).ok_or(NoExitRecord);
        let (code, signal, oom, finished_at) = (number()?, number()?, number()?, number()?);
        let small = |value: i64| i32::try_from(value).map_err(|_| NoExitRecord);
        Ok(Self {
            status: ExitStatus {
                code: small(code)?,
                signal: small(signal)?,
                oom_killed: oom == 1,
                finished_at,
            },
        })
    }
}
