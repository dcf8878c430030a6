//! TLS on the served listener: which certificate is shown, and what a client may show. rustls with
//! ring, TLS 1.2 and 1.3. The certificate is swapped in a running daemon: our own is made anew long
//! before it ends, a given one is read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::api::gate::authority::{Authority, AuthorityError};
use crate::api::gate::credential::{Fingerprint, fingerprint};
use crate::api::gate::private_file::Stamp;
use crate::clock::Clock;

/// Between two looks at a given certificate's files, and at the age of our own.
const LOOK: Duration = Duration::from_secs(2);
/// Two thirds of the life of our own.
const RENEWAL: SignedDuration = SignedDuration::from_hours(24 * 240);

/// Where the listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Of our own authority, for these names and addresses.
    Own { names: Vec<String> },
    /// Given: PEM files with the chain and with its key.
    Given { certificate: PathBuf, key: PathBuf },
}

/// Why the listener has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{path} cannot be read as PEM: {why}")]
    Pem { path: PathBuf, why: String },
    #[error("{certificate} and {key} cannot be served: is the key the certificate's? ({why})")]
    Pair { certificate: PathBuf, key: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// TLS of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    renewal: Arc<Renewal>,
}

/// The certificate that is shown now.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

/// What the next certificate is made of.
struct Renewal {
    data_dir: PathBuf,
    from: Certificate,
    clock: Clock,
    provider: Arc<CryptoProvider>,
}

impl Shown {
    fn now(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl Tls {
    /// Makes or reads the certificate. Clients may show one of the installation's own authority; it
    /// is made where there is none.
    ///
    /// # Errors
    /// Files that cannot be read or written, a key that is another certificate's.
    pub fn new(data_dir: &Path, from: Certificate, clock: Clock) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let renewal =
            Renewal { data_dir: data_dir.to_owned(), from, clock, provider: provider.clone() };
        let authority = Authority::open(data_dir, clock.now())?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(renewal.next()?))));
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let mut trusted = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(authority.pem.as_bytes())
            .map_err(|error| TlsError::Setup(format!("ca.pem: {error}")))?;
        trusted.add(own).map_err(setup)?;
        let clients = WebPkiClientVerifier::builder_with_provider(trusted.into(), provider.clone());
        let clients = clients
            .allow_unauthenticated()
            .build()
            .map_err(|error: VerifierBuilderError| TlsError::Setup(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { acceptor, shown, renewal: Arc::new(renewal) })
    }

    /// The handshake, and by what the client's certificate is known where it showed one.
    ///
    /// # Errors
    /// A handshake that fails.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> std::io::Result<(TlsStream<S>, Option<Fingerprint>)> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = shown.map(|certificate| fingerprint(certificate));
        Ok((stream, shown))
    }

    /// Whether the certificate is for this name: what is not is no name of ours.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let shown = self.shown.now();
        let (Ok(name), Some(own)) = (ServerName::try_from(name), shown.cert.first()) else {
            return false;
        };
        ParsedCertificate::try_from(own)
            .is_ok_and(|own| rustls::client::verify_server_name(&own, &name).is_ok())
    }

    /// Swaps the certificate when it is time to, until the stop.
    pub async fn follow(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        let (mut made, mut stamps) = (self.renewal.clock.now(), self.renewal.stamps());
        loop {
            tokio::select! {
                biased;
                // Cancel safe: a cancelled token stays cancelled.
                () = stop.cancelled() => return,
                // Cancel safe: a tick that was not taken comes again.
                _ = ticks.tick() => {}
            }
            let (now, seen) = (self.renewal.clock.now(), self.renewal.stamps());
            if !self.renewal.is_due(made, now) && seen == stamps {
                continue;
            }
            (made, stamps) = (now, seen);
            match self.renewal.next() {
                Ok(next) => {
                    *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                    info!("the listener shows a new certificate");
                }
                // Half of a pair was replaced, say: the other half's change is seen too.
                Err(failure) => {
                    let failure = crate::telemetry::chain(&failure);
                    error!(failure, "the listener keeps its certificate");
                }
            }
        }
    }
}

impl Renewal {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        match &self.from {
            Certificate::Own { .. } => [None, None],
            Certificate::Given { certificate, key } => [Stamp::of(certificate), Stamp::of(key)],
        }
    }

    fn is_due(&self, made: Timestamp, now: Timestamp) -> bool {
        matches!(self.from, Certificate::Own { .. }) && now.duration_since(made) > RENEWAL
    }

    fn next(&self) -> Result<CertifiedKey, TlsError> {
        match &self.from {
            Certificate::Own { names } => {
                let now = self.clock.now();
                let authority = Authority::open(&self.data_dir, now)?;
                let pair = authority.server(names, now)?;
                let setup = |why: String| TlsError::Setup(why);
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
                    .map_err(|error| setup(error.to_string()))?;
                CertifiedKey::from_der(vec![pair.der.into()], key, &self.provider)
                    .map_err(|error| setup(error.to_string()))
            }
            Certificate::Given { certificate, key } => {
                let unreadable = |path: &Path| {
                    let path = path.to_owned();
                    move |error: rustls::pki_types::pem::Error| TlsError::Pem {
                        path,
                        why: error.to_string(),
                    }
                };
                let chain = CertificateDer::pem_file_iter(certificate)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(unreadable(certificate))?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
                let wrong = |why: String| TlsError::Pair {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    why,
                };
                if chain.is_empty() {
                    return Err(wrong("there is no certificate in it".to_owned()));
                }
                CertifiedKey::from_der(chain, secret, &self.provider)
                    .map_err(|error| wrong(error.to_string()))
            }
        }
    }
}
