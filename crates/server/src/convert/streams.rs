use super::invalid;
use crate::{Failure, Streams};

/// Streams of Exec and Attach, by the rules of the CRI messages.
pub(crate) fn streams(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<Streams, Failure> {
    if !(stdin || stdout || stderr) {
        return Err(invalid("stdin, stdout, stderr", "one of them must be asked for"));
    }
    if tty && stderr {
        return Err(invalid("stderr", "a terminal (tty) has no stderr of its own"));
    }
    Ok(Streams { tty, stdin, stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (asked, field) in [
            ((false, false, false, false), Some("stdin, stdout, stderr")),
            ((true, false, false, false), Some("stdin, stdout, stderr")),
            ((true, true, true, true), Some("stderr")),
            ((true, true, true, false), None),
            ((false, false, false, true), None),
        ] {
            let (tty, stdin, stdout, stderr) = asked;
            let refusal = streams(tty, stdin, stdout, stderr).err().map(|failure| failure.message);
            match (refusal, field) {
                (None, None) => {}
                (Some(text), Some(field)) if text.starts_with(field) => {}
                other => panic!("{asked:?}: {other:?}"),
            }
        }
    }
}
