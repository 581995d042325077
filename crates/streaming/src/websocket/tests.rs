use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>, String),
}

/// Everything in `bytes`, given in pieces of `step`.
fn read(role: Role, bytes: &[u8], step: usize) -> Result<Vec<Said>, Error> {
    let mut decoder = Decoder::new(role);
    let (mut said, mut message) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            let (taken, event) = decoder.decode(&mut piece[at..])?;
            at += taken;
            match event {
                None => {
                    assert!(at == piece.len(), "without an event everything is taken");
                    break;
                }
                Some(Event::Message { bytes, first, last }) => {
                    assert_eq!(first, message.is_empty());
                    message.extend(bytes);
                    if last {
                        said.push(Said::Message(std::mem::take(&mut message)));
                    }
                }
                Some(Event::Ping(payload)) => said.push(Said::Ping(payload)),
                Some(Event::Pong) => said.push(Said::Pong),
                Some(Event::Close { code, reason }) => said.push(Said::Close(code, reason)),
            }
        }
    }
    Ok(said)
}

fn saying() -> impl Strategy<Value = Said> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..400).prop_map(Said::Message),
        proptest::collection::vec(any::<u8>(), 66_000..66_001).prop_map(Said::Message),
        proptest::collection::vec(any::<u8>(), 0..126).prop_map(Said::Ping),
        Just(Said::Pong),
        (any::<u16>(), "[ -~]{0,100}").prop_map(|(code, reason)| Said::Close(Some(code), reason)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read_in_any_pieces(
        all in proptest::collection::vec(saying(), 0..12),
        mask in any::<[u8; 4]>(),
        client in any::<bool>(),
        step in 1usize..5000,
    ) {
        let (role, mask) = if client { (Role::Client, None) } else { (Role::Server, Some(mask)) };
        let bytes: Vec<u8> = all.iter().flat_map(|one| match one {
            Said::Message(bytes) => frame(Opcode::Binary, bytes, mask),
            Said::Ping(bytes) => frame(Opcode::Ping, bytes, mask),
            Said::Pong => frame(Opcode::Pong, b"", mask),
            Said::Close(code, reason) => close(code.unwrap_or_default(), reason, mask),
        }).collect();
        prop_assert_eq!(read(role, &bytes, step).unwrap(), all);
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..40) {
        let mut decoder = Decoder::new(Role::Server);
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let mut at = 0;
            while let Ok((taken, Some(_))) = decoder.decode(&mut piece[at..]) {
                at += taken;
            }
        }
    }

    #[test]
    fn base64_is_read_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
        let text = encode_base64(1, &bytes);
        let mut decoder = Base64Decoder::default();
        let mut back = Vec::new();
        for piece in text[1..].chunks(step) {
            back.extend(decoder.decode(piece, false).unwrap());
        }
        back.extend(decoder.decode(b"", true).unwrap());
        prop_assert_eq!(back, bytes);
    }
}

/// The example of RFC 6455, 1.3.
#[test]
fn the_key_is_answered() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

/// The examples of RFC 6455, 5.7, and frames between the parts of a message.
#[test]
fn split_messages_are_joined() {
    let bytes = [
        0x01, 0x83, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, // "Hel"
        0x89, 0x80, 1, 2, 3, 4, // ping
        0x00, 0x80, 1, 2, 3, 4, // nothing, and it goes on
        0x80, 0x82, 0, 0, 0, 0, 0x6c, 0x6f, // "lo"
    ];
    for step in 1..bytes.len() {
        let said = read(Role::Server, &bytes, step).unwrap();
        assert_eq!(said, vec![Said::Ping(Vec::new()), Said::Message(b"Hello".to_vec())]);
    }
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let cases: &[(&[u8], Error)] = &[
        (&[0x82, 0x01, 0], Error::Mask),
        (&[0xc2, 0x80, 0, 0, 0, 0], Error::Reserved),
        (&[0x83, 0x80, 0, 0, 0, 0], Error::Opcode(3)),
        (&[0x80, 0x80, 0, 0, 0, 0], Error::Continuation),
        (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], Error::Continuation),
        (&[0x09, 0x80, 0, 0, 0, 0], Error::Control),
        (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], Error::Control),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Error::Length),
        (&[0x88, 0x81, 0, 0, 0, 0, 3], Error::Close),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(Role::Server, bytes, 64).as_ref(), Err(error), "{bytes:02x?}");
    }
    let mut decoder = Base64Decoder::default();
    assert_eq!(decoder.decode(b"abc", true), Err(Error::Base64));
    for texts in [["YQ==", "YQ=="], ["YQ==", "Y"]] {
        let mut decoder = Base64Decoder::default();
        assert_eq!(decoder.decode(texts[0].as_bytes(), false).as_deref(), Ok(b"a".as_slice()));
        assert_eq!(decoder.decode(texts[1].as_bytes(), false), Err(Error::Base64), "after the padding");
    }
}

#[test]
fn reasons_are_cut_at_a_character() {
    let frame = close(code::GOING_AWAY, &"ä".repeat(100), None);
    let said = read(Role::Client, &frame, 999).unwrap();
    assert_eq!(said, vec![Said::Close(Some(1001), "ä".repeat(61))]);
}
