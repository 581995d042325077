//! Servers that a probe or a hook asks: HTTP that tells what it was asked, and the health service of gRPC.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Prints each request's first line. 500 while the file `bad` is there, 200 otherwise.
pub(crate) fn web(port: u16, bad: &Path) -> io::Result<()> {
    serve(port, |stream| {
        let mut request = [0; 4096];
        let got = stream.read(&mut request)?;
        let text = String::from_utf8_lossy(&request[..got]).into_owned();
        println!("{}", text.lines().next().unwrap_or_default());
        let status = if bad.exists() { "500 Internal Server Error" } else { "200 OK" };
        write!(stream, "HTTP/1.0 {status}\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn serve(port: u16, mut answer: impl FnMut(&mut TcpStream) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // A client that goes away is its own affair.
        let _ = answer(&mut stream);
    }
    Ok(())
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `grpc.health.v1.Health/Check` and nothing else: SERVING, or NOT_SERVING while the file `bad` is there.
pub(crate) fn grpc(port: u16, bad: &Path) -> io::Result<()> {
    serve(port, |stream| {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface)?;
        frame(stream, SETTINGS, 0, 0, &[])?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let [a, b, c, kind, flags, stream_id @ ..] = head;
            let mut body = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
            stream.read_exact(&mut body)?;
            let id = u32::from_be_bytes(stream_id);
            match kind {
                SETTINGS if flags & ACK == 0 => frame(stream, SETTINGS, ACK, 0, &[])?,
                PING if flags & ACK == 0 => frame(stream, PING, ACK, 0, &body)?,
                // The request is one message without anything that matters here; its end asks for the answer.
                DATA | HEADERS if flags & END_STREAM != 0 => {
                    // Indexed field 8 of the static table is `:status: 200`.
                    let mut headers = vec![0x88];
                    literal(&mut headers, "content-type", "application/grpc");
                    frame(stream, HEADERS, END_HEADERS, id, &headers)?;
                    // HealthCheckResponse.status, behind gRPC's five bytes.
                    frame(stream, DATA, 0, id, &[0, 0, 0, 0, 2, 8, if bad.exists() { 2 } else { 1 }])?;
                    let mut trailers = Vec::new();
                    literal(&mut trailers, "grpc-status", "0");
                    frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &trailers)?;
                }
                _ => {}
            }
        }
    })
}

fn frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(id.to_be_bytes());
    bytes.extend(body);
    stream.write_all(&bytes)
}

/// A field that no table keeps, without Huffman's code; both texts are shorter than 127.
fn literal(to: &mut Vec<u8>, name: &str, value: &str) {
    to.push(0);
    for text in [name, value] {
        to.push(text.len() as u8);
        to.extend(text.as_bytes());
    }
}
