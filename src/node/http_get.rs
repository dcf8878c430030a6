//! One GET over HTTP or HTTPS, as probes and hooks make it. A certificate is not looked at, as the
//! kubelet does not: what is asked is the pod's own address, and whether it answers.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The kubelet reads no more of a body.
const BODY_LIMIT: usize = 10 * 1024;

pub type AskError = Box<dyn std::error::Error + Send + Sync>;

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub https: bool,
    /// `host:port`
    pub authority: String,
    pub path: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// What was answered.
pub struct Answered {
    pub status: u16,
    pub location: Option<String>,
}

/// Why there is no connection, in Go's words: people look for those.
#[derive(Debug, thiserror::Error)]
#[error("dial tcp {authority}: {why}")]
pub struct DialError {
    authority: String,
    why: String,
}

/// # Errors
/// Why it cannot be connected to.
pub async fn dial(authority: &str) -> Result<TcpStream, DialError> {
    TcpStream::connect(authority).await.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
            _ => error.to_string(),
        };
        DialError { authority: authority.to_owned(), why }
    })
}

/// Asks once and follows no redirect. `agent`: `kube-probe` or `kube-lifecycle`.
///
/// # Errors
/// Why there was no answer.
pub async fn exchange(
    url: &Url,
    agent: &str,
    headers: &[(String, String)],
) -> Result<Answered, AskError> {
    let stream = dial(&url.authority).await?;
    if !url.https {
        return ask(TokioIo::new(stream), url, agent, headers).await;
    }
    let host = url.authority.rsplit_once(':').map_or(&*url.authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = TlsConnector::from(UNVERIFIED.clone()).connect(name, stream).await?;
    ask(TokioIo::new(stream), url, agent, headers).await
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: TokioIo<S>,
    url: &Url,
    agent: &str,
    headers: &[(String, String)],
) -> Result<Answered, AskError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut request = Request::get(&url.path).header("Connection", "close");
    let version = env!("CARGO_PKG_VERSION");
    for (name, value) in [
        ("User-Agent", format!("{agent}/{version}")),
        ("Accept", "*/*".to_owned()),
        ("Host", url.authority.clone()),
    ] {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let exchange = async {
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let (head, body) = response.into_parts();
        // Who is cut off while it answers may log an error for each probe.
        let _ = Limited::new(body, BODY_LIMIT).collect().await;
        Ok::<_, AskError>(head)
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    // Cancel safe: both are pinned here. A connection that ends first has handed over what it
    // read, so the exchange still gets its answer, or its own error.
    let head = tokio::select! {
        biased;
        answer = &mut exchange => answer?,
        _ = &mut connection => exchange.await?,
    };
    let location = head.headers.get("location").and_then(|value| value.to_str().ok());
    Ok(Answered { status: head.status.as_u16(), location: location.map(str::to_owned) })
}

static UNVERIFIED: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

/// Takes every certificate; that the other side holds its key is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
