//! SPDY within WebSocket: the bytes of one are the messages of the other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use super::Source;
use super::source::Said;
use crate::pool::HEADROOM;
use crate::transport::{Reader, Writer, read_some};
use crate::websocket::{self, Opcode};

/// Bytes on their way between the two protocols, each way.
const BETWEEN: usize = 64 * 1024;

/// Unwraps a connection. The task that does it ends with the connection, or once both ends that it gave are dropped.
pub(crate) fn tunnel(
    reader: Reader,
    writer: Writer,
    first: &[u8],
    activity: Arc<AtomicU64>,
) -> (Reader, Writer) {
    let (ours, theirs) = tokio::io::duplex(BETWEEN);
    let source = Source::messages(reader, first, activity);
    let (from, to) = tokio::io::split(ours);
    let writer = Arc::new(Mutex::new(writer));
    tokio::spawn(async move {
        tokio::select! {
            () = inwards(source, to, &writer) => {}
            () = outwards(from, &writer) => {}
        }
        // A client that is gone needs no word.
        let mut writer = writer.lock().await;
        let _ = writer.write_all(&websocket::close(websocket::code::NORMAL, "", None)).await;
        let _ = writer.shutdown().await;
    });
    let (reader, writer) = tokio::io::split(theirs);
    (Box::new(reader), Box::new(writer))
}

async fn inwards(mut source: Source, mut to: WriteHalf<DuplexStream>, writer: &Mutex<Writer>) {
    while source.fill().await.is_ok() {
        loop {
            let moved = match source.said() {
                Ok(Some(Said::Data { bytes, .. })) => to.write_all(&bytes).await,
                Ok(Some(Said::Ping(payload))) => {
                    writer.lock().await.write_all(&websocket::frame(Opcode::Pong, &payload, None)).await
                }
                Ok(Some(Said::Leave)) | Err(_) => return,
                Ok(Some(_)) => Ok(()),
                Ok(None) => break,
            };
            if moved.is_err() {
                return;
            }
        }
    }
}

async fn outwards(mut from: ReadHalf<DuplexStream>, writer: &Mutex<Writer>) {
    loop {
        let Ok((mut buffer, length @ 1..)) = read_some(&mut from, HEADROOM).await else { return };
        let head = websocket::head(Opcode::Binary, length, None);
        let start = HEADROOM - head.as_ref().len();
        if let Some(place) = buffer.get_mut(start..HEADROOM) {
            place.copy_from_slice(head.as_ref());
        }
        let mut writer = writer.lock().await;
        let frame = buffer.get(start..HEADROOM + length).unwrap_or_default();
        if writer.write_all(frame).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}
