//! The one request of a connection: its head, and the answer that upgrades it or says why not.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::transport::{Reader, Writer};

/// Of a request's head, in bytes.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// A request's head. Names of headers are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// All values of a header, split at commas.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        let items = values.flat_map(|(_, value)| value.split(',')).map(str::trim);
        items.filter(|item| !item.is_empty()).collect()
    }

    /// A header's first value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why a request has no head that could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("read the request")]
    Read(#[from] io::Error),
    #[error("the request's head is longer than 16 KiB or has more than 64 headers")]
    TooLarge,
    #[error("the request is not HTTP/1.1")]
    Malformed,
}

/// Reads up to the end of the head; what came behind it is the second part.
pub(crate) async fn head(reader: &mut Reader) -> Result<(Request, Vec<u8>), HeadError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if bytes.len() >= HEAD_MAX {
            return Err(HeadError::TooLarge);
        }
        let room = (HEAD_MAX - bytes.len()) as u64;
        if reader.take(room).read_buf(&mut bytes).await? == 0 {
            return Err(HeadError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some((request, length)) = parse(&bytes)? {
            return Ok((request, bytes.split_off(length)));
        }
    }
}

/// The head at the front of `bytes` and its length; nothing while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(_) => return Err(HeadError::Malformed),
    };
    let path = head.path.unwrap_or_default();
    // A proxy asks with the whole URL.
    let path = path.split_once("://").map_or(path, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value)));
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        headers: headers.collect(),
    };
    Ok(Some((request, length)))
}

/// Answers 101 with these headers.
pub(crate) async fn upgrade(writer: &mut Writer, headers: &[(&str, &str)]) -> io::Result<()> {
    let mut head = String::from("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes()).await?;
    writer.flush().await
}

/// Answers with an error and ends the connection.
pub(crate) async fn refuse(
    writer: &mut Writer,
    status: &str,
    headers: &[(&str, &str)],
    text: &str,
) -> io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n");
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str(&format!("Content-Length: {}\r\n\r\n{text}\n", text.len() + 1));
    writer.write_all(answer.as_bytes()).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_read_in_pieces_and_what_follows_is_kept() {
        let bytes = b"POST /exec/abc?x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
            X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\nrest";
        for cut in 1..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let mut reader: Reader = Box::new(front.chain(back));
            let (request, rest) = head(&mut reader).await.unwrap();
            assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/exec/abc"));
            assert_eq!(request.list("connection"), ["keep-alive", "Upgrade"]);
            assert_eq!(request.list("x-stream-protocol-version"), ["v4.channel.k8s.io", "v3.channel.k8s.io"]);
            assert!(b"rest".starts_with(&rest));
        }
    }

    #[tokio::test]
    async fn what_is_no_head_is_refused() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        for (bytes, expected) in [
            (long.as_str(), "longer"),
            (many.as_str(), "longer"),
            ("\0\0\0\0\0\0\r\n\r\n", "not HTTP"),
            ("GET / HT", "read the request"),
        ] {
            let mut reader: Reader = Box::new(std::io::Cursor::new(bytes.as_bytes().to_vec()));
            let error = head(&mut reader).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_whole_url_has_a_path() {
        let (request, _) = parse(b"GET http://h:1/exec/t HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!(request.path, "/exec/t");
    }
}
