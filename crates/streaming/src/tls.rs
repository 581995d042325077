//! TLS of the streaming server. Certificates are read again when their files change; connections keep what they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate and what leads up from it.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates clients must show; without it they need none.
    pub client_ca: Option<PathBuf>,
    pub min_version: TlsVersion,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("use the client CA {}", path.display())]
    ClientCa { path: PathBuf, source: rustls::server::VerifierBuilderError },
    #[error("use {} and its key", certificate.display())]
    Pair { certificate: PathBuf, source: rustls::Error },
}

type Stamp = Vec<Option<SystemTime>>;

/// The configuration in force.
pub(crate) struct Keeper {
    files: Tls,
    now: RwLock<(Stamp, Arc<ServerConfig>)>,
}

impl Keeper {
    /// Reads the files; blocking.
    pub(crate) fn open(files: Tls) -> Result<Self, TlsError> {
        let stamp = stamp(&files);
        let config = load(&files)?;
        Ok(Self { files, now: RwLock::new((stamp, config)) })
    }

    /// For the next connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.now.read().1.clone()
    }

    /// Takes changed files over; what cannot be used is told once and the old stays in force. Blocking.
    pub(crate) fn refresh(&self) {
        let stamp = stamp(&self.files);
        if stamp == self.now.read().0 {
            return;
        }
        let loaded = load(&self.files);
        let mut now = self.now.write();
        now.0 = stamp;
        match loaded {
            Ok(config) => {
                now.1 = config;
                tracing::info!(certificate = %self.files.certificate.display(), "certificates are read again");
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "changed certificates cannot be used; the old ones stay"
            ),
        }
    }
}

fn paths(files: &Tls) -> impl Iterator<Item = &PathBuf> {
    [&files.certificate, &files.key].into_iter().chain(&files.client_ca)
}

fn stamp(files: &Tls) -> Stamp {
    paths(files).map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

fn load(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider: Arc<CryptoProvider> = rustls::crypto::ring::default_provider().into();
    let pair = |source| TlsError::Pair { certificate: files.certificate.clone(), source };
    let versions: &[&SupportedProtocolVersion] = match files.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions).map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(pair)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            let ca = |source| TlsError::ClientCa { path: path.clone(), source };
            builder.with_client_cert_verifier(verifier.map_err(ca)?)
        }
    };
    let read = |source| TlsError::Read { path: files.key.clone(), source };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(read)?;
    let mut config = builder.with_single_cert(certificates(&files.certificate)?, key).map_err(pair)?;
    // Upgrades are a thing of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
