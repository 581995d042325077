//! Who asks: credentials as they come, and the challenges they answer.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use sha2::{Digest as _, Sha256};

/// What proves who asks. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A refresh token for the registry's token service (OAuth 2, RFC 6749 section 6).
    Identity {
        token: String,
    },
    /// A bearer token that the registry takes as it is.
    Bearer {
        token: String,
    },
}

/// The credentials of one request and the host they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub credentials: Credentials,
    /// `None`: the host of the image's name.
    pub server: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// From docker's `auth` field: base64 of `user:password`.
    pub fn from_basic(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (username, password) = decoded.trim_end_matches('\0').split_once(':')?;
        Some(Self::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    /// Tells one from another without keeping either.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        match self {
            Self::Basic { username, password } => {
                hash.update(b"basic\0");
                hash.update(username);
                hash.update(b"\0");
                hash.update(password);
            }
            Self::Identity { token } => {
                hash.update(b"identity\0");
                hash.update(token);
            }
            Self::Bearer { token } => {
                hash.update(b"bearer\0");
                hash.update(token);
            }
        }
        berth_ids::Digest::from_sha256(hash.finalize().into()).hex().to_owned()
    }

    /// A word for a person.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "user and password",
            Self::Identity { .. } => "identity token",
            Self::Bearer { .. } => "registry token",
        }
    }
}

/// A header that logs do not show; `None` when the text is none for a header.
pub(crate) fn secret(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// Challenges of one answer that are looked at.
const CHALLENGES: usize = 8;
/// Bytes of one header.
pub(crate) const HEADER_MAX: usize = 8192;

/// What a 401 asks for (RFC 9110, WWW-Authenticate; distribution spec, token authentication).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String, error: String },
}

impl Challenge {
    /// The one to answer: a token where one is offered, else a password.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|header| header.to_str().ok());
        let found: Vec<Self> = texts.flat_map(Self::all).take(CHALLENGES).collect();
        let bearer = found.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(found.first()).cloned()
    }

    /// Those of one header's text that are known; a header may hold several.
    pub(crate) fn all(header: &str) -> Vec<Self> {
        let mut found = Vec::new();
        if header.len() > HEADER_MAX {
            return found;
        }
        for (scheme, parameters) in schemes(header) {
            let value = |wanted: &str| {
                parameters.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                found.push(Self::Basic);
            } else if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = value("realm")
            {
                found.push(Self::Bearer {
                    realm,
                    service: value("service").unwrap_or_default(),
                    scope: value("scope").unwrap_or_default(),
                    error: value("error").unwrap_or_default(),
                });
            }
        }
        found
    }
}

/// `scheme key="value", key=value, scheme …`: quoted values may hold commas and, after a backslash, quotes.
fn schemes(text: &str) -> Vec<(&str, Vec<(String, String)>)> {
    let mut found: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([',', ' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let spaced = after.trim_start_matches([' ', '\t']);
        if let Some(value) = spaced.strip_prefix('=') {
            let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            found.push((word, Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([',', ' ', '\t']);
    }
    found
}

fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let text = str::to_owned;
        Challenge::Bearer {
            realm: text(realm),
            service: text(service),
            scope: text(scope),
            error: String::new(),
        }
    }

    #[test]
    fn challenges() {
        for (text, expected) in [
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://t/a\",service=\"s\",scope=\"repository:x:pull,push\"",
                vec![bearer("https://t/a", "s", "repository:x:pull,push")],
            ),
            ("bearer realm = \"https://t\" , service=s", vec![bearer("https://t", "s", "")]),
            (
                "Basic realm=\"a, b\", Bearer realm=\"https://t\"",
                vec![Challenge::Basic, bearer("https://t", "", "")],
            ),
            (
                "Negotiate, Bearer service=\"q\\\"s\",realm=\"https://t\"",
                vec![bearer("https://t", "q\"s", "")],
            ),
            ("Bearer realm=\"never closed", vec![bearer("never closed", "", "")]),
            ("Negotiate", vec![]),
            ("Bearer service=x", vec![]),
            ("=x", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(Challenge::all(text), expected, "{text}");
        }
        assert_eq!(Challenge::all(&"Basic,".repeat(3000)), vec![]);
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=x"));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"https://t\""));
        assert_eq!(Challenge::of(&headers), Some(bearer("https://t", "", "")));
    }

    #[test]
    fn basic_credentials() {
        let found = Credentials::from_basic("dXNlcjpwYTpzcw==").unwrap();
        let expected = Credentials::Basic { username: "user".into(), password: "pa:ss".into() };
        assert_eq!(found, expected);
        assert_eq!(Credentials::from_basic("!"), None);
        assert!(!format!("{found:?}").contains("pa:ss"));
        let other = Credentials::Basic { username: "user".into(), password: "else".into() };
        assert_ne!(found.fingerprint(), other.fingerprint());
    }
}
