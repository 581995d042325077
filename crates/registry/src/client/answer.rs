//! What a registry's answer says, most of all where it is no good one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::{Place, Session};
use crate::{RegistryError, retry};

/// Bytes of an error's body that are read for what it says.
const SAID_MAX: usize = 4096;

pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    retry::after(response.headers(), now)
}

/// What an error's body says (distribution spec, "Error Codes"), made fit for one line.
pub(crate) fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return String::new() };
    let Some(first) = body.errors.into_iter().next() else { return String::new() };
    let text = format!("{} {}", first.code.to_lowercase().replace('_', " "), first.message);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
}

impl Session {
    /// The answer, when it is a good one.
    pub(crate) async fn good(&self, place: &Place, response: Response) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (host, reference) = (place.endpoint.authority().to_owned(), self.name());
        let after = retry_after(&response);
        let limits = limits(response.headers());
        let said = match tokio::time::timeout(self.stall(), beginning(response)).await {
            Ok(bytes) => said(&bytes),
            Err(_) => String::new(),
        };
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, reference, said },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = match self.credentials(place).await? {
                    Some(found) => {
                        format!("the credentials are not accepted{said}; they are from {}", found.source)
                    }
                    None => format!("it wants credentials, and none were given{said}"),
                };
                RegistryError::Refused { host, reference, why }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let asks = after.map(|after| format!("; it asks to wait {} s", after.as_secs()));
                let said = format!("{said}{}{}", asks.unwrap_or_default(), limits.unwrap_or_default());
                RegistryError::Limited { host, reference, said, after }
            }
            status => RegistryError::Status { host, reference, status: status.as_u16(), said, after },
        })
    }
}

/// Docker Hub's words for a limit: `100;w=21600` is a hundred in six hours.
fn limits(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok().filter(|text| text.len() < 64);
    let limit = text("ratelimit-limit")?;
    let readable = match limit.split_once(";w=").map(|(count, window)| (count, window.parse::<u64>())) {
        Some((count, Ok(seconds))) => format!("{count} pulls in {} min", seconds / 60),
        _ => limit.to_owned(),
    };
    Some(format!("; its limit is {readable}, more with credentials"))
}

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() > SAID_MAX {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn what_a_registry_says_is_one_line() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\nsuch tag"}]}"#;
        assert_eq!(said(body), " (manifest unknown no such tag)");
        assert_eq!(said(b"<html>"), "");
        assert_eq!(said(br#"{"errors":[]}"#), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert!(said(long.as_bytes()).len() < 320);
    }

    #[test]
    fn a_limit_is_readable() {
        let mut headers = HeaderMap::new();
        assert_eq!(limits(&headers), None);
        headers.insert("ratelimit-limit", HeaderValue::from_static("100;w=21600"));
        assert_eq!(limits(&headers).unwrap(), "; its limit is 100 pulls in 360 min, more with credentials");
    }
}
