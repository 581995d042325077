use super::*;

async fn request(text: &str) -> Request {
    let bytes = format!("{}\r\n\r\n", text.replace('\n', "\r\n"));
    let mut reader: crate::transport::Reader = Box::new(std::io::Cursor::new(bytes.into_bytes()));
    crate::http::head(&mut reader).await.unwrap().0
}

const SPDY_ASK: &str = "POST /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/3.1\n";
const WS_ASK: &str = "GET /exec/t HTTP/1.1\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\
                      Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";

#[tokio::test]
async fn the_clients_order_decides() {
    let spdy = |ending, resize| Protocol::Spdy { ending, resize };
    let cases = [
        (
            SPDY_ASK,
            "X-Stream-Protocol-Version: v5.channel.k8s.io, v4.channel.k8s.io",
            false,
            spdy(Ending::Status, true),
        ),
        (
            SPDY_ASK,
            "X-Stream-Protocol-Version: v2.channel.k8s.io\nX-Stream-Protocol-Version: v4.channel.k8s.io",
            false,
            spdy(Ending::Text, false),
        ),
        (SPDY_ASK, "Host: h", false, spdy(Ending::Text, false)),
        (SPDY_ASK, "X-Stream-Protocol-Version: portforward.k8s.io", true, Protocol::SpdyForward),
        (SPDY_ASK, "Host: h", true, Protocol::SpdyForward),
        (WS_ASK, "Sec-WebSocket-Protocol: v5.channel.k8s.io", false, channels(false, Ending::Status, true)),
        (
            WS_ASK,
            "Sec-WebSocket-Protocol: x, v4.base64.channel.k8s.io",
            false,
            channels(true, Ending::Status, false),
        ),
        (WS_ASK, "Host: h", false, channels(false, Ending::Text, false)),
        (WS_ASK, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io", true, Protocol::TunnelForward),
        (
            WS_ASK,
            "Sec-WebSocket-Protocol: v4.channel.k8s.io",
            true,
            Protocol::ChannelsForward { base64: false },
        ),
    ];
    for (ask, more, forward, expected) in cases {
        let agreed = agree(&request(&format!("{ask}{more}")).await, forward);
        assert_eq!(agreed.map(|agreed| agreed.protocol).ok(), Some(expected), "{ask}{more}");
    }
    let agreed =
        agree(&request(&format!("{WS_ASK}Sec-WebSocket-Protocol: v5.channel.k8s.io")).await, false).unwrap();
    assert!(agreed.headers.contains(&("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into())));
    assert!(agreed.headers.contains(&("Sec-WebSocket-Protocol", "v5.channel.k8s.io".into())));
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_could() {
    let cases = [
        ("PUT /exec/t HTTP/1.1\nHost: h", "405"),
        ("GET /exec/t HTTP/1.1\nHost: h", "400"),
        ("GET /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c", "400"),
        ("GET /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13", "400"),
        ("GET /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: k", "400"),
        (
            "GET /exec/t HTTP/1.1\nConnection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v9",
            "403",
        ),
    ];
    for (text, status) in cases {
        let refused = agree(&request(text).await, false).unwrap_err();
        assert!(refused.status.starts_with(status), "{text}: {refused:?}");
        if status == "403" {
            assert_eq!(refused.headers.len(), SPDY_REMOTE.len());
        }
    }
}
