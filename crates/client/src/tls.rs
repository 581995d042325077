//! TLS to a streaming server that has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::ClientError;

/// Who is trusted, and what is shown. Files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The node's own certificate: without a CA it is trusted, whatever name it bears, and no other.
    pub server: Option<PathBuf>,
    /// Who must have signed the server's certificate, which then must bear the URL's host.
    pub ca: Option<PathBuf>,
    /// Certificate and key, for a server that asks who comes.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Blocking reads of some small files.
pub(crate) fn connector(tls: &Tls) -> Result<TlsConnector, ClientError> {
    let provider: Arc<CryptoProvider> = rustls::crypto::ring::default_provider().into();
    let verifier: Arc<dyn ServerCertVerifier> = match (&tls.ca, &tls.server) {
        (Some(path), _) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| useless(path, error))?;
            }
            let built = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
            built.map_err(|error| useless(path, error))?
        }
        (None, Some(path)) => {
            let mut chain = certificates(path)?;
            Arc::new(Pinned { certificate: chain.swap_remove(0), provider: provider.clone() })
        }
        (None, None) => {
            let problem = "it wants TLS; set client.tls_ca to who signed its certificate";
            return Err(ClientError::Stream(problem.into()));
        }
    };
    let failed = |error: rustls::Error| ClientError::Stream(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(failed)?.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let read = PrivateKeyDer::from_pem_file(key).map_err(|error| useless(key, error))?;
            let chain = certificates(certificate)?;
            builder.with_client_auth_cert(chain, read).map_err(|error| useless(certificate, error))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn useless(path: &Path, error: impl std::fmt::Display) -> ClientError {
    ClientError::Stream(format!("{} cannot be used: {error}", path.display()))
}

/// One at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| useless(path, error))?;
    if found.is_empty() {
        return Err(useless(path, "it holds no certificate"));
    }
    Ok(found)
}

/// Trusts one certificate, which is known from elsewhere: that of this machine's own configuration.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => {
                Err(rustls::Error::General("it shows another certificate than streaming.tls_cert".into()))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
