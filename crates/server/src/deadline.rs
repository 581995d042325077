//! The time that a client gives an RPC (`grpc-timeout`, PROTOCOL-HTTP2.md of gRPC), answered with the code that gRPC has for
//! it. The library below enforces it too, but answers `CANCELLED`, and a client whose own clock is a moment behind takes that
//! for the answer: the kubelet and critest ask for `DEADLINE_EXCEEDED`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

const HEADER: &str = "grpc-timeout";

/// More digits are none by the protocol, and less than these overflow nothing.
const DIGITS: usize = 8;

/// A service whose RPCs end in time. Its clock is looked at before the library's, which is set a moment later.
#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: NamedService> NamedService for Deadline<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(given) = given(request.headers()) else { return Box::pin(self.inner.call(request)) };
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let answer = tokio::time::timeout(given, self.inner.call(request));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                tracing::info!("not done within the {given:?} that the client gave it");
                let message = format!("{rpc} is not done within the {given:?} that the client gave it");
                Ok(Status::deadline_exceeded(message).into_http())
            })
        })
    }
}

/// How long the client waits, `None`: for ever, or what it says is no time.
fn given(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_protocol_and_others() {
        let seconds = Duration::from_secs;
        for (text, time) in [
            ("3H", Some(seconds(10_800))),
            ("2M", Some(seconds(120))),
            ("99999999S", Some(seconds(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("1.5S", None),
        ] {
            let headers = [(http::HeaderName::from_static(HEADER), text.parse().expect("a value"))];
            assert_eq!(given(&headers.into_iter().collect()), time, "{text:?}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }
}
