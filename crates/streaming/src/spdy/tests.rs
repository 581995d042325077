use std::io::Write as _;

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::dictionary::dictionary;
use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Open(u32, Headers, bool),
    Reply(u32),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}

/// Everything in `bytes`, given in pieces of `step`; the parts of one stream's data joined.
fn read(bytes: &[u8], step: usize) -> Result<Vec<Said>, Error> {
    let mut decoder = Decoder::new();
    let mut said = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        let mut piece = piece;
        loop {
            let (taken, event) = decoder.decode(piece)?;
            piece = &piece[taken..];
            let Some(event) = event else {
                assert!(piece.is_empty(), "without an event everything is taken");
                break;
            };
            let one = match event {
                Event::Open { stream, headers, fin } => Said::Open(stream.0, headers, fin),
                Event::Reply { stream, .. } => Said::Reply(stream.0),
                Event::Data { stream, bytes, fin } => match said.last_mut() {
                    Some(Said::Data(last, data, end @ false)) if *last == stream.0 => {
                        data.extend(bytes);
                        *end = fin;
                        continue;
                    }
                    _ => Said::Data(stream.0, bytes.to_vec(), fin),
                },
                Event::Reset { stream, status } => Said::Reset(stream.0, status),
                Event::Ping { id } => Said::Ping(id),
                Event::GoAway => Said::GoAway,
            };
            said.push(one);
        }
    }
    Ok(said)
}

fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = data_head(StreamId(stream), bytes.len(), fin).to_vec();
    frame.extend(bytes);
    frame
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

fn texts() -> impl Strategy<Value = Headers> {
    let pair = ("[a-z-]{1,12}", "[ -~]{0,40}");
    proptest::collection::vec(pair, 0..8).prop_map(Headers)
}

fn saying() -> impl Strategy<Value = Said> {
    let id = 1u32..0x7fff_ffff;
    prop_oneof![
        (id.clone(), texts(), any::<bool>()).prop_map(|(id, h, fin)| Said::Open(id, h, fin)),
        id.clone().prop_map(Said::Reply),
        (id.clone(), proptest::collection::vec(any::<u8>(), 1..300))
            .prop_map(|(id, b)| Said::Data(id, b, true)),
        id.prop_map(|id| Said::Reset(id, 5)),
        any::<u32>().prop_map(Said::Ping),
        Just(Said::GoAway),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_any_pieces(all in proptest::collection::vec(saying(), 0..20), step in 1usize..200) {
        let mut encoder = Encoder::default();
        let mut bytes = Vec::new();
        for one in &all {
            bytes.extend(match one {
                Said::Open(id, headers, fin) => encoder.open(StreamId(*id), headers, *fin),
                Said::Reply(id) => encoder.reply(StreamId(*id)),
                Said::Data(id, bytes, fin) => data(*id, bytes, *fin),
                Said::Reset(id, _) => encoder.reset(StreamId(*id), ResetStatus::Cancel),
                Said::Ping(id) => encoder.ping(*id),
                Said::GoAway => encoder.go_away(StreamId(1), GoAwayStatus::Ok),
            });
        }
        prop_assert_eq!(read(&bytes, step).unwrap(), all);
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1usize..64) {
        let _ = read(&bytes, step);
    }

    #[test]
    fn any_header_block_is_refused_or_read(block in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..64) {
        let mut frame = vec![0x80, 3, 0, 1, 0, 0, 0, 10 + block.len() as u8];
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(&block);
        let _ = read(&frame, step);
        let _ = Headers::parse(&block);
    }
}

/// Header blocks as a peer with a real compressor sends them: one stream, flushed after each.
#[test]
fn compressed_headers_are_read() {
    let mut compress = Compress::new(Compression::best(), true);
    compress.set_dictionary(dictionary()).unwrap();
    let mut bytes = Vec::new();
    for (id, kind) in [(1u32, "error"), (3, "stdin"), (5, "stdout")] {
        let block = headers(&[("streamtype", kind)]).block();
        let mut compressed = Vec::with_capacity(512);
        compress.compress_vec(&block, &mut compressed, FlushCompress::Sync).unwrap();
        bytes.write_all(&[0x80, 3, 0, 1, 0, 0, 0, 10 + compressed.len() as u8]).unwrap();
        bytes.write_all(&id.to_be_bytes()).unwrap();
        bytes.write_all(&[0; 6]).unwrap();
        bytes.write_all(&compressed).unwrap();
    }
    let said = read(&bytes, 7).unwrap();
    let expected: Vec<Said> = [(1, "error"), (3, "stdin"), (5, "stdout")]
        .map(|(id, kind)| Said::Open(id, headers(&[("streamtype", kind)]), false))
        .into();
    assert_eq!(said, expected);
}

#[test]
fn a_block_that_inflates_beyond_the_bound_is_refused() {
    let mut compress = Compress::new(Compression::best(), true);
    compress.set_dictionary(dictionary()).unwrap();
    let mut compressed = Vec::with_capacity(8192);
    compress.compress_vec(&vec![b'a'; 1 << 20], &mut compressed, FlushCompress::Sync).unwrap();
    assert!(compressed.len() < CONTROL_MAX);
    let length = (10 + compressed.len()) as u32;
    let mut frame = vec![0x80, 3, 0, 1];
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(&compressed);
    assert_eq!(read(&frame, 4096), Err(Error::Block("too large")));
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let cases: &[(&[u8], Error)] = &[
        (&[0x80, 2, 0, 1, 0, 0, 0, 10], Error::Version(2)),
        (&[0x80, 3, 0, 5, 0, 0, 0, 4], Error::Kind(5)),
        (&[0x80, 3, 0, 6, 0, 0, 0, 5], Error::Length { kind: 6, length: 5 }),
        (&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], Error::Length { kind: 1, length: 0xff_ffff }),
        (&[0, 0, 0, 0, 0, 0, 0, 1, 7], Error::StreamZero),
        (&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1], Error::StreamZero),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes, 64).as_ref(), Err(error), "{bytes:02x?}");
    }
}

#[test]
fn settings_and_windows_change_nothing() {
    let settings = [0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0x10, 0];
    let window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0x10, 0];
    let mut bytes = [settings.as_slice(), &window].concat();
    bytes.extend(data(1, b"x", false));
    assert_eq!(read(&bytes, 3), Ok(vec![Said::Data(1, b"x".to_vec(), false)]));
}

#[test]
fn a_deaf_decoder_still_keeps_step() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new();
    let first = encoder.open(StreamId(1), &headers(&[("a", "b")]), false);
    assert!(matches!(decoder.decode(&first), Ok((_, Some(Event::Open { .. })))));
    decoder.skip_headers();
    let second = encoder.open(StreamId(3), &headers(&[("a", "b")]), false);
    let Ok((_, Some(Event::Open { headers, .. }))) = decoder.decode(&second) else { panic!() };
    assert_eq!(headers, Headers::default());
    assert!(matches!(decoder.decode(&data(1, b"x", true)), Ok((_, Some(Event::Data { fin: true, .. })))));
}
