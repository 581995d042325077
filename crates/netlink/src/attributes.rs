//! Netlink attributes: length, type, value, padding to four bytes (netlink(7)).

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;

/// A list being written.
#[derive(Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// In network order, as nf_tables counts.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// In the machine's order, as rtnetlink counts.
    pub(crate) fn native(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn nested(self, kind: u16, inside: Self) -> Self {
        self.bytes(kind | NESTED, &inside.0)
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.0
    }
}

/// What a list holds: types without their flags, and values. One that says it is longer than what there is ends the walk.
pub(crate) fn read(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if length < 4 || length > bytes.len() {
            break;
        }
        found.push((u16::from_ne_bytes([head[2], head[3]]) & TYPE, &bytes[4..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// The first of a type.
pub(crate) fn find<'a>(all: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    all.iter().find(|(found, _)| *found == kind).map(|(_, bytes)| *bytes)
}
