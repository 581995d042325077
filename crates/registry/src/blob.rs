//! Blobs on their way: one that is cut goes on where it was, from there or from another place.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;

use crate::client::{Ask, Need, Session};
use crate::{LayerDescriptor, RegistryError};

/// Cuts in a row without so many bytes between them.
const CUTS: u32 = 5;
const WORTH: u64 = 1024 * 1024;
/// The same, of a place that is not the last.
const FEW: u32 = 1;

/// The places that a blob may come from, less those that did badly: the next in order is asked in their stead.
#[derive(Debug, Default)]
pub struct Sources {
    /// Numbers of places that are not asked any more.
    passed: Vec<usize>,
    /// Of those that something came from, in order.
    used: Vec<usize>,
}

impl Sources {
    /// The bytes that came are not the blob's; whether there is another place to ask for them, from the first on. Where
    /// they came from several places, the first of them is given up: whichever it was, each time one is.
    pub fn blame(&mut self, session: &Session) -> bool {
        let used = std::mem::take(&mut self.used);
        let Some(first) = used.first() else { return false };
        if !used.iter().any(|place| self.passed.contains(place)) {
            self.passed.push(*first);
        }
        session.places(Need::Pull, &self.passed).next().is_some()
    }

    /// Whether a place is still asked, and not as the last one.
    fn may_pass(&self, session: &Session, place: usize) -> bool {
        let mut open = session.places(Need::Pull, &self.passed).map(|(at, _)| at);
        !self.passed.contains(&place) && open.any(|at| at != place)
    }
}

/// A blob on its way. A cut connection is made anew where it ended.
#[derive(Debug)]
pub struct Blob<'a> {
    session: Session,
    layer: LayerDescriptor,
    /// The next byte that is handed out.
    at: u64,
    /// Behind the last one that is wanted.
    end: u64,
    sources: &'a mut Sources,
    body: Option<Response>,
    host: String,
    /// The number of the place that it comes from.
    place: usize,
    /// Bytes that come once more.
    skip: u64,
    cuts: u32,
    /// Where the last cut was that was worth its connection.
    since: u64,
}

/// What became of a wait for the next piece.
enum Came {
    Piece(Bytes),
    End,
    /// The connection ended or stands still.
    Cut(RegistryError),
    /// The answer ended, and the blob has not.
    Short(RegistryError),
    /// More than the blob has.
    Long(RegistryError),
}

impl<'a> Blob<'a> {
    pub(crate) async fn begin(
        session: Session,
        layer: LayerDescriptor,
        part: Range<u64>,
        sources: &'a mut Sources,
    ) -> Result<Self, RegistryError> {
        let mut blob = Self {
            session,
            layer,
            at: part.start,
            end: part.end,
            sources,
            body: None,
            host: String::new(),
            place: 0,
            skip: 0,
            cuts: 0,
            since: part.start,
        };
        blob.open().await?;
        Ok(blob)
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        if self.at >= self.end && self.at > 0 {
            return Ok(());
        }
        let ask = Ask {
            path: format!("blobs/{}", self.layer.digest),
            need: Need::Pull,
            from: self.at,
            until: Some(self.end).filter(|end| *end < self.layer.size),
            small: None,
            digest: Some(self.layer.digest.clone()),
            size: Some(self.layer.size),
            without: self.sources.passed.clone(),
        };
        let reply = self.session.ask(&ask).await?;
        self.host = reply.host;
        self.skip = self.at - reply.from;
        self.body = reply.body;
        self.place = reply.place;
        if !self.sources.used.contains(&reply.place) {
            self.sources.used.push(reply.place);
        }
        Ok(())
    }

    fn size(&self, found: String) -> RegistryError {
        let (digest, wanted) = (self.layer.digest.clone(), self.layer.size);
        RegistryError::Size { host: self.host.clone(), digest, wanted, found }
    }

    /// The next piece; `None` at the end. The length is checked; the digest is whoever's reads it.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.wait().await {
                Came::Piece(piece) => return Ok(Some(piece)),
                Came::End => return Ok(None),
                Came::Long(error) => return Err(error),
                Came::Short(error) => {
                    if !self.sources.may_pass(&self.session, self.place) {
                        return Err(error);
                    }
                    self.pass(&error);
                    self.open().await?;
                }
                Came::Cut(_) if self.at == self.end => return Ok(None),
                Came::Cut(error) => self.again(error).await?,
            }
        }
    }

    async fn wait(&mut self) -> Came {
        loop {
            let Some(body) = &mut self.body else { return Came::End };
            let stall = self.session.stall();
            let came = match tokio::time::timeout(stall, body.chunk()).await {
                Ok(Ok(Some(mut piece))) => {
                    let again = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
                    let mut piece = piece.split_off(again);
                    self.skip -= again as u64;
                    if piece.is_empty() {
                        continue;
                    }
                    self.at += piece.len() as u64;
                    if self.at > self.layer.size {
                        self.body = None;
                        return Came::Long(self.size("more".into()));
                    }
                    if self.at >= self.end && self.end < self.layer.size {
                        // A place that knows no ranges sends the rest, too.
                        let more = usize::try_from(self.at - self.end).unwrap_or(usize::MAX);
                        piece.truncate(piece.len().saturating_sub(more));
                        (self.body, self.at) = (None, self.end);
                    }
                    return Came::Piece(piece);
                }
                Ok(Ok(None)) if self.at == self.end => Came::End,
                Ok(Ok(None)) => Came::Short(self.size(self.at.to_string())),
                Ok(Err(source)) => {
                    let (host, reference) = (self.host.clone(), self.session.name());
                    Came::Cut(RegistryError::Unreachable { host, reference, source: source.without_url() })
                }
                Err(_) => {
                    Came::Cut(RegistryError::Stalled { host: self.host.clone(), seconds: stall.as_secs() })
                }
            };
            self.body = None;
            return came;
        }
    }

    /// After a cut: from the same place, and from the next when that comes to nothing. Who refuses the connection in the
    /// middle of a blob may be starting anew.
    async fn again(&mut self, cut: RegistryError) -> Result<(), RegistryError> {
        if self.at - self.since >= WORTH {
            (self.cuts, self.since) = (0, self.at);
        }
        self.cuts += 1;
        if self.cuts > FEW && self.sources.may_pass(&self.session, self.place) {
            self.pass(&cut);
        } else if self.cuts > CUTS {
            return Err(cut);
        }
        let mut why = cut;
        loop {
            tracing::debug!(
                blob = %self.layer.digest,
                at = self.at,
                error = &why as &dyn std::error::Error,
                "a transfer is taken up again"
            );
            tokio::time::sleep(Duration::from_millis(100 << self.cuts)).await;
            match self.open().await {
                Err(error) if error.is_refused() && self.cuts < CUTS => {
                    self.cuts += 1;
                    why = error;
                }
                opened => return opened,
            }
        }
    }

    /// Asks this place no more.
    fn pass(&mut self, why: &RegistryError) {
        tracing::warn!(
            blob = %self.layer.digest,
            host = self.host,
            error = why as &dyn std::error::Error,
            "the next place is asked for the rest"
        );
        self.sources.passed.push(self.place);
        self.cuts = 0;
    }
}
