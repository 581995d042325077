//! Which protocol a connection goes on with, by the client's offer.

use crate::http::Request;
use crate::websocket::accept_key;

const SPDY: &str = "SPDY/3.1";
/// Of requests over SPDY; the first that the server knows is taken.
const VERSION_HEADER: &str = "x-stream-protocol-version";

/// How the error stream tells the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Text, and nothing on success: remotecommand v1 to v3.
    Text,
    /// A `metav1.Status` in JSON: v4 and v5.
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Exec and attach over SPDY streams. `resize`: there is a stream of terminal sizes (v3 on).
    Spdy { ending: Ending, resize: bool },
    /// Exec and attach over WebSocket channels. `close`: channels can be closed (v5).
    Channels { base64: bool, ending: Ending, close: bool },
    /// Port-forward over SPDY streams.
    SpdyForward,
    /// The same with SPDY's bytes in WebSocket messages.
    TunnelForward,
    /// Port-forward over pairs of WebSocket channels.
    ChannelsForward { base64: bool },
}

/// The answer to an upgrade request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) protocol: Protocol,
    /// Headers of the answer, after `Connection`.
    pub(crate) headers: Vec<(&'static str, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) text: String,
}

/// What the verb of a URL decides: `forward` for port-forward, else exec and attach.
pub(crate) fn agree(request: &Request, forward: bool) -> Result<Agreed, Refused> {
    let refuse = |status, text: &str| Refused { status, headers: Vec::new(), text: text.to_owned() };
    if !["GET", "POST"].contains(&request.method.as_str()) {
        return Err(refuse("405 Method Not Allowed", "GET or POST"));
    }
    let has = |name, wanted: &str| request.list(name).iter().any(|item| item.eq_ignore_ascii_case(wanted));
    if !has("connection", "upgrade") {
        return Err(refuse("400 Bad Request", "an upgrade to SPDY/3.1 or websocket is expected"));
    }
    if has("upgrade", SPDY) {
        over_spdy(request, forward)
    } else if has("upgrade", "websocket") {
        over_websocket(request, forward)
    } else {
        Err(refuse("400 Bad Request", "the only upgrades are SPDY/3.1 and websocket"))
    }
}

const SPDY_REMOTE: &[(&str, Protocol)] = &[
    ("v4.channel.k8s.io", Protocol::Spdy { ending: Ending::Status, resize: true }),
    ("v3.channel.k8s.io", Protocol::Spdy { ending: Ending::Text, resize: true }),
    ("v2.channel.k8s.io", Protocol::Spdy { ending: Ending::Text, resize: false }),
    ("channel.k8s.io", Protocol::Spdy { ending: Ending::Text, resize: false }),
];
const SPDY_FORWARD: &[(&str, Protocol)] = &[("portforward.k8s.io", Protocol::SpdyForward)];

const fn channels(base64: bool, ending: Ending, close: bool) -> Protocol {
    Protocol::Channels { base64, ending, close }
}

/// Without an offer the first is meant.
const WEBSOCKET_REMOTE: &[(&str, Protocol)] = &[
    ("channel.k8s.io", channels(false, Ending::Text, false)),
    ("base64.channel.k8s.io", channels(true, Ending::Text, false)),
    ("v4.channel.k8s.io", channels(false, Ending::Status, false)),
    ("v4.base64.channel.k8s.io", channels(true, Ending::Status, false)),
    ("v5.channel.k8s.io", channels(false, Ending::Status, true)),
    ("v5.base64.channel.k8s.io", channels(true, Ending::Status, true)),
];
const WEBSOCKET_FORWARD: &[(&str, Protocol)] = &[
    ("v4.channel.k8s.io", Protocol::ChannelsForward { base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::ChannelsForward { base64: true }),
    ("SPDY/3.1+portforward.k8s.io", Protocol::TunnelForward),
];

fn find(table: &'static [(&'static str, Protocol)], offers: &[&str]) -> Option<(&'static str, Protocol)> {
    let known = |offer: &&str| table.iter().find(|(name, _)| name == offer).copied();
    offers.iter().find_map(known)
}

fn over_spdy(request: &Request, forward: bool) -> Result<Agreed, Refused> {
    let offers = request.list(VERSION_HEADER);
    let table = if forward { SPDY_FORWARD } else { SPDY_REMOTE };
    let mut headers = vec![("Upgrade", SPDY.to_owned())];
    // Clients older than the header speak the oldest version.
    let Some(oldest) = table.last() else { return Err(unknown(&[], table)) };
    if offers.is_empty() {
        return Ok(Agreed { protocol: oldest.1, headers });
    }
    let Some((name, protocol)) = find(table, &offers) else { return Err(unknown(&offers, table)) };
    headers.push(("X-Stream-Protocol-Version", name.to_owned()));
    Ok(Agreed { protocol, headers })
}

fn over_websocket(request: &Request, forward: bool) -> Result<Agreed, Refused> {
    let bad = |text: &str| Refused { status: "400 Bad Request", headers: Vec::new(), text: text.to_owned() };
    let key = request.get("sec-websocket-key").ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    if request.get("sec-websocket-version") != Some("13") {
        return Err(Refused {
            headers: vec![("Sec-WebSocket-Version", "13".into())],
            ..bad("Sec-WebSocket-Version is not 13")
        });
    }
    let offers = request.list("sec-websocket-protocol");
    let table = if forward { WEBSOCKET_FORWARD } else { WEBSOCKET_REMOTE };
    let mut headers = vec![("Upgrade", "websocket".to_owned()), ("Sec-WebSocket-Accept", accept_key(key))];
    if offers.is_empty() {
        let first = table.first().ok_or_else(|| unknown(&offers, table))?;
        return Ok(Agreed { protocol: first.1, headers });
    }
    let (name, protocol) = find(table, &offers).ok_or_else(|| unknown(&offers, table))?;
    headers.push(("Sec-WebSocket-Protocol", name.to_owned()));
    Ok(Agreed { protocol, headers })
}

fn unknown(offers: &[&str], table: &[(&str, Protocol)]) -> Refused {
    let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    Refused {
        status: "403 Forbidden",
        headers: known
            .iter()
            .map(|name| ("X-Accepted-Stream-Protocol-Versions", (*name).to_owned()))
            .collect(),
        text: format!("none of the protocols {offers:?} is known; known are {known:?}"),
    }
}

#[cfg(test)]
mod tests;
