//! Pushes what no client would: blobs and manifests as they are, by HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub(super) struct Push<'a> {
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
}

impl Push<'_> {
    /// The status and the head of the answer.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.host)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.with_context(|| format!("{method} {path}: {answer}"))?, answer))
    }

    pub(super) fn blob(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let uploads = format!("/v2/{}/blobs/uploads/", self.repository);
        let (_, answer) = self.ask("POST", &uploads, "application/octet-stream", b"")?;
        let place = answer.lines().find_map(|line| line.strip_prefix("Location: "));
        let place = place.with_context(|| format!("no place for a blob: {answer}"))?.trim();
        let path = place.find("/v2/").map_or(place, |at| &place[at..]);
        let joint = if path.contains('?') { '&' } else { '?' };
        let (status, answer) =
            self.ask("PUT", &format!("{path}{joint}digest={digest}"), "application/octet-stream", bytes)?;
        ensure!(status == 201, "push of {digest}: {answer}");
        Ok(())
    }

    pub(super) fn manifest(&self, tag: &str, kind: &str, bytes: &[u8]) -> Result<()> {
        let (status, answer) =
            self.ask("PUT", &format!("/v2/{}/manifests/{tag}", self.repository), kind, bytes)?;
        ensure!(status == 201, "push of the manifest: {answer}");
        Ok(())
    }
}
