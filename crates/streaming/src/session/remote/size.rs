use serde_json::{Deserializer, Value};

/// Of text that is not a whole size yet, in bytes.
pub(crate) const KEPT_MAX: usize = 1024;

/// Terminal sizes as they come: JSON objects, one behind the other, in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    kept: Vec<u8>,
    newest: Option<(u16, u16)>,
    /// Something else came: nothing that follows can be understood.
    broken: bool,
}

impl Sizes {
    /// What is no size is dropped: a session does not end for it.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        self.kept.extend(bytes);
        let mut values = Deserializer::from_slice(&self.kept).into_iter::<Value>();
        for value in values.by_ref().map_while(Result::ok) {
            let side = |name| value.get(name).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
            if let (Some(columns @ 1..), Some(rows @ 1..)) = (side("Width"), side("Height")) {
                self.newest = Some((columns, rows));
            }
        }
        let read = values.byte_offset();
        self.kept.drain(..read);
        self.broken = self.kept.len() > KEPT_MAX;
    }

    #[cfg(feature = "fuzz")]
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Columns and rows, if new ones came since the last call.
    pub(crate) fn newest(&mut self) -> Option<(u16, u16)> {
        self.newest.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":120,\"Height\":50}\n";
        for step in 1..text.len() {
            let mut sizes = Sizes::default();
            text.chunks(step).for_each(|piece| sizes.take(piece));
            assert_eq!(sizes.newest(), Some((120, 50)), "{step}");
            assert_eq!(sizes.newest(), None);
        }
    }

    #[test]
    fn what_is_no_size_changes_nothing() {
        for text in ["{}", "{\"Width\":0,\"Height\":5}", "{\"Width\":70000,\"Height\":5}", "[1]", "nonsense"]
        {
            let mut sizes = Sizes::default();
            sizes.take(text.as_bytes());
            assert_eq!(sizes.newest(), None, "{text}");
        }
        let mut sizes = Sizes::default();
        sizes.take(&[b'x'; KEPT_MAX + 1]);
        sizes.take(b"{\"Width\":80,\"Height\":24}");
        assert_eq!(sizes.newest(), None);
    }
}
