//! The server with TLS: who may come in, and that streams run over it.
#![allow(clippy::unwrap_used, missing_docs)]

mod rig;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use berth_streaming::websocket::{Decoder, Event, Role};
use berth_streaming::{Settings, Tls, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rig::{Rig, streams};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { certificate: der, pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn client(
        &self,
        with: Option<&Authority>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match with {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let (certificate, key) = authority.sign();
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

async fn rig(directory: &Path, authority: &Authority, min_version: TlsVersion) -> Rig {
    let (certificate, key) = authority.sign();
    let put = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let tls = Tls {
        certificate: put("cert.pem", certificate.pem()),
        key: put("key.pem", key.serialize_pem()),
        client_ca: Some(put("ca.pem", authority.pem.clone())),
        min_version,
    };
    let address = Ipv4Addr::LOCALHOST.into();
    Rig::with(Settings { address, port: 0, tls: Some(tls), idle: rig::LONG }).await
}

/// What an exec over WebSocket says on its channel 1; an error where the server hangs up.
async fn ask(connector: &TlsConnector, url: &str) -> std::io::Result<Vec<u8>> {
    let (host, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let stream = TcpStream::connect(host).await?;
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut all = Vec::new();
    let (mut decoder, mut out) = (Decoder::new(Role::Client), Vec::new());
    let (mut at, mut channel) = (None, 0);
    loop {
        if stream.read_buf(&mut all).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4);
        let Some(mut from) = at.or(head) else { continue };
        while from < all.len() {
            let (taken, event) = decoder.decode(&mut all[from..]).unwrap();
            from += taken;
            match event {
                Some(Event::Message { bytes, first, .. }) => {
                    if first {
                        channel = bytes[0];
                    }
                    if channel == 1 {
                        out.extend(&bytes[usize::from(first)..]);
                    }
                }
                Some(Event::Close { .. }) => return Ok(out),
                _ => {}
            }
        }
        at = Some(from);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_of_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let rig = rig(directory.path(), &ours, TlsVersion::V1_2).await;
    let script = "head -c 3000000 /dev/zero; echo end";
    let known = ours.client(Some(&ours), rustls::ALL_VERSIONS);
    let out = ask(&known, &rig.shell(script, streams("o"))).await.unwrap();
    assert_eq!((out.len(), out.ends_with(b"end\n")), (3_000_004, true));
    for stranger in
        [ours.client(None, rustls::ALL_VERSIONS), ours.client(Some(&theirs), rustls::ALL_VERSIONS)]
    {
        assert!(ask(&stranger, &rig.shell(script, streams("o"))).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_than_wanted_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let rig = rig(directory.path(), &ours, TlsVersion::V1_3).await;
    let old = ours.client(Some(&ours), &[&rustls::version::TLS12]);
    assert!(ask(&old, &rig.shell("true", streams("o"))).await.is_err());
    let new = ours.client(Some(&ours), &[&rustls::version::TLS13]);
    assert_eq!(ask(&new, &rig.shell("echo x", streams("o"))).await.unwrap(), b"x\n");
}
