//! A token service as the distribution project's token specification has it, trusted by Debian's registry through its
//! certificate: passwords and identity tokens in, signed JSON Web Tokens (RFC 7519, ES256) out.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use serde_json::{Value, json};

use super::server::{Answer, Reply, Request, Server};
use crate::registry::{PASSWORD, USER};

pub(super) const IDENTITY: &str = "lane-identity";
pub(super) const SERVICE: &str = "lane registry";
const ISSUER: &str = "lane";

pub(super) struct Tokens {
    pub(super) server: Server,
    /// For the registry's `rootcertbundle`.
    pub(super) certificate: String,
}

impl Tokens {
    /// Tokens hold for so many seconds.
    pub(super) async fn start(holds: u64) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["lane-tokens".to_owned()])?.self_signed(&key)?;
        let chain = STANDARD.encode(certificate.der());
        let answer: Answer = Arc::new(move |request, _| answer(request, &key, &chain, holds));
        Ok(Self { server: Server::start(answer).await?, certificate: certificate.pem() })
    }

    pub(super) fn realm(&self) -> String {
        format!("http://{}/token", self.server.host())
    }
}

fn answer(request: &Request, key: &KeyPair, chain: &str, holds: u64) -> Reply {
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    let (fields, who) = match request.method.as_str() {
        "POST" => (&*request.body, Some(field(&request.body, "refresh_token") == IDENTITY)),
        _ => {
            let basic = request.header("authorization").strip_prefix("Basic ");
            let good = STANDARD.encode(format!("{USER}:{PASSWORD}"));
            (query, basic.map(|given| given == good))
        }
    };
    match (who, field(fields, "service") == SERVICE) {
        (Some(true), true) => match token(key, chain, &values(fields, "scope").join(" "), holds) {
            Ok(token) => Reply::new(200, json!({ "token": token, "expires_in": holds }).to_string()),
            Err(error) => Reply::new(500, format!("{error:#}")),
        },
        _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#),
    }
}

/// Of a form, which a query is, too.
fn field(text: &str, name: &str) -> String {
    values(text, name).into_iter().next().unwrap_or_default()
}

fn values(text: &str, name: &str) -> Vec<String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| plainly(value)).collect()
}

fn plainly(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| (digit? as char).to_digit(16);
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (hex(rest.next()), hex(rest.next()));
                (high.unwrap_or(0) * 16 + low.unwrap_or(0)) as u8
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `repository:NAME:ACTION,ACTION` is what it allows; several have spaces between them.
fn token(key: &KeyPair, chain: &str, scope: &str, holds: u64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let access = scope.split_whitespace().map(|scope| {
        let mut parts = scope.splitn(3, ':');
        let (kind, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let actions: Vec<&str> = parts.next().unwrap_or_default().split(',').collect();
        json!({ "type": kind, "name": name, "actions": actions })
    });
    let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [chain] });
    let claims = json!({
        "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": now.to_string(),
        "iat": now, "nbf": now.saturating_sub(10), "exp": now + holds,
        "access": access.collect::<Vec<_>>(),
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature =
        plain(&key.sign(signed.as_bytes())?).context("the signature is no sequence of two numbers")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// A signature from DER (SEQUENCE of two INTEGER) to JWS's form: both numbers in 32 bytes each (RFC 7518, section 3.4).
fn plain(der: &[u8]) -> Option<Vec<u8>> {
    fn number<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let [2, length, ..] = **rest else { return None };
        let (number, after) = rest.get(2..)?.split_at_checked(length.into())?;
        *rest = after;
        Some(number)
    }
    let mut rest = der.get(2..)?;
    let mut plain = Vec::new();
    for number in [number(&mut rest)?, number(&mut rest)?] {
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        plain.extend(std::iter::repeat_n(0, 32_usize.checked_sub(number.len())?));
        plain.extend(number);
    }
    Some(plain)
}

/// What Debian's registry is told about it.
pub(super) fn trust(realm: &str, bundle: &std::path::Path) -> String {
    format!(
        "auth:\n  token:\n    realm: {realm}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
        bundle.display()
    )
}
