//! Git over HTTPS (the "smart" protocol): one request lists the references, the next ones ask for
//! what is missing. Instead of libgit2's own client, because that one trusts authorities for the
//! whole process and not for one source, tells no reason when it does not trust a certificate, and
//! waits for a server as long as the server likes.
//!
//! The token goes to the source's own host and port alone, over TLS: a redirect elsewhere is
//! refused, see [`redirected`]. Trusted are the system's authorities (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` are honoured), and those in the source's `caFile`; both are read at every fetch,
//! so that a renewed one counts without a restart.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::Fuse;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::sync::wire::Wire;
use crate::sync::wire_fault::{Asker, Head, Meaning, WireFault, meaning, redirected};

const LIST: &str = "/info/refs?service=git-upload-pack";
const LISTED: &str = "application/x-git-upload-pack-advertisement";
const ASK: &str = "/git-upload-pack";
const ASKED: &str = "application/x-git-upload-pack-request";
const ANSWERED: &str = "application/x-git-upload-pack-result";
/// Servers tell Git from browsers by the first word.
const USER_AGENT: &str = concat!("git/2.0 (ballast ", env!("CARGO_PKG_VERSION"), ")");
/// git's own default is 20; more than a move and a rename is a loop.
const MOST_REDIRECTS: usize = 5;
/// For one address of a host that has several: the next one may work.
const CONNECT: Duration = Duration::from_secs(10);

/// Who asks, with what.
pub struct Token {
    pub asker: Asker,
    pub secret: String,
}

/// One repository on one server.
pub struct Https {
    wire: Arc<Wire>,
    host: String,
    port: u16,
    /// The repository's address; a redirect of the first request moves it, on the same server.
    base: Mutex<String>,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
    asker: Option<Asker>,
}

impl Https {
    /// # Errors
    /// The `caFile` cannot be read.
    pub fn new(
        wire: Arc<Wire>,
        url: &str,
        host: &str,
        port: u16,
        token: Option<Token>,
        ca_file: Option<&Path>,
    ) -> Result<Self, WireFault> {
        let tls = trust(ca_file).map_err(|fault| wire.end(fault))?;
        let authorization = token.as_ref().map(|token| {
            let pair = STANDARD.encode(format!("{}:{}", token.asker.user, token.secret));
            let mut value =
                HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is ASCII");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            wire,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            base: Mutex::new(url.trim_end_matches('/').to_owned()),
            tls,
            authorization,
            asker: token.map(|token| token.asker),
        })
    }

    /// The list of references.
    ///
    /// # Errors
    /// See [`WireFault`].
    pub fn list(&self) -> Result<Answer, WireFault> {
        for _ in 0..=MOST_REDIRECTS {
            let base = self.base();
            let answer = self.wire.wait(self.send(&format!("{base}{LIST}"), None))?;
            match self.meaning(&answer, LISTED) {
                Meaning::Git => return Ok(answer.reading(self.wire.clone(), true)),
                Meaning::Fault(fault) => return Err(self.wire.end(fault)),
                Meaning::Redirect(location) => {
                    let moved = redirected(&base, LIST, &location);
                    let moved = moved.map_err(|fault| self.wire.end(fault))?;
                    *self.base.lock().unwrap_or_else(PoisonError::into_inner) = moved;
                }
            }
        }
        Err(self.wire.end(WireFault::RedirectLoop { most: MOST_REDIRECTS }))
    }

    /// A question whose answer is read after it was written.
    pub fn ask(self: &Arc<Self>) -> Question {
        Question { https: self.clone(), request: Vec::new(), answer: None }
    }

    fn answer(&self, request: Vec<u8>) -> Result<Answer, WireFault> {
        let url = format!("{}{ASK}", self.base());
        let answer = self.wire.wait(self.send(&url, Some(request)))?;
        let fault = match self.meaning(&answer, ANSWERED) {
            Meaning::Git => return Ok(answer.reading(self.wire.clone(), false)),
            Meaning::Fault(fault) => fault,
            // The list was answered here: a server that moves in between is not followed.
            Meaning::Redirect(to) => match redirected(&self.base(), ASK, &to) {
                Ok(to) => WireFault::OddRedirect { to },
                Err(fault) => fault,
            },
        };
        Err(self.wire.end(fault))
    }

    fn base(&self) -> String {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn meaning(&self, answer: &Opened, expected: &str) -> Meaning {
        let text = |name| answer.head.headers.get(name).and_then(|value| value.to_str().ok());
        let head = Head {
            status: answer.head.status,
            content_type: text(header::CONTENT_TYPE),
            location: text(header::LOCATION),
            retry_after: text(header::RETRY_AFTER),
        };
        meaning(head, expected, self.asker.as_ref())
    }

    /// One request on a connection of its own, up to the answer's head.
    async fn send(&self, url: &str, body: Option<Vec<u8>>) -> Result<Opened, WireFault> {
        let server = || self.wire.server().to_owned();
        let tcp = connect(&self.host, self.port, self.wire.server()).await?;
        let name = match self.host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(self.host.clone())
                .map_err(|_| WireFault::NoAddress { host: self.host.clone() })?,
        };
        let connector = TlsConnector::from(self.tls.clone());
        let tls = connector.connect(name, tcp).await.map_err(|error| self.tls_fault(&error))?;
        let closed = |_| WireFault::Closed { server: server() };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls));
        let (mut sender, connection) = handshake.await.map_err(closed)?;
        let (_, path) = url.split_at(url.get(8..).and_then(|rest| rest.find('/')).unwrap_or(0) + 8);
        let request = Request::builder()
            .method(if body.is_some() { "POST" } else { "GET" })
            .uri(path)
            .header(header::HOST, self.authority())
            .header(header::USER_AGENT, USER_AGENT);
        let request = match &body {
            Some(_) => request.header(header::CONTENT_TYPE, ASKED).header(header::ACCEPT, ANSWERED),
            None => request.header(header::ACCEPT, "*/*").header(header::PRAGMA, "no-cache"),
        };
        let request = match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value.clone()),
            None => request,
        };
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| WireFault::RemoteSays { what: error.to_string() })?;
        let mut connection: Connection = connection.map(drop).boxed().fuse();
        let mut response = sender.send_request(request).boxed().fuse();
        let response = loop {
            // Cancel safe: both futures live on, whichever is ready first.
            tokio::select! {
                biased;
                response = &mut response => break response.map_err(closed)?,
                () = &mut connection => {}
            }
        };
        Ok(Opened::of(response, connection))
    }

    fn authority(&self) -> String {
        let base = self.base();
        base[8..].split('/').next().unwrap_or_default().to_owned()
    }

    fn tls_fault(&self, error: &io::Error) -> WireFault {
        let host = self.host.clone();
        let server = self.wire.server().to_owned();
        let source = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        match source {
            Some(rustls::Error::InvalidCertificate(fault)) => certificate_fault(host, fault),
            Some(rustls::Error::InvalidMessage(_)) => {
                WireFault::NoTls { server, cause: "it answers something else".to_owned() }
            }
            Some(other) => WireFault::NoTls { server, cause: other.to_string() },
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                WireFault::NoTls { server, cause: "it closes the connection".to_owned() }
            }
            None => WireFault::NoTls { server, cause: error.to_string() },
        }
    }
}

fn certificate_fault(host: String, fault: &CertificateError) -> WireFault {
    match fault {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            WireFault::Untrusted { host }
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            WireFault::OutOfDate { host, what: "has expired" }
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            WireFault::OutOfDate { host, what: "is not valid yet" }
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            WireFault::WrongName { host, names: presented.clone() }
        }
        CertificateError::NotValidForName => WireFault::WrongName { host, names: Vec::new() },
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            WireFault::Untrusted { host }
        }
        other => WireFault::NoTls { server: host, cause: format!("its certificate: {other}") },
    }
}

/// Every address of the host, in turn.
async fn connect(host: &str, port: u16, server: &str) -> Result<TcpStream, WireFault> {
    let no_address = || WireFault::NoAddress { host: host.to_owned() };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|_| no_address())?;
    let mut last = no_address();
    for address in addresses {
        last = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are small and answered before the next one.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                WireFault::Refused { server: server.to_owned() }
            }
            Ok(Err(error)) => {
                WireFault::Unreachable { server: server.to_owned(), cause: error.to_string() }
            }
            Err(_) => WireFault::Unreachable {
                server: server.to_owned(),
                cause: "no answer to the connection".to_owned(),
            },
        };
    }
    Err(last)
}

type Connection = Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>;

struct OpenedHead {
    status: u16,
    headers: HeaderMap,
}

/// An answer whose head is there.
struct Opened {
    head: OpenedHead,
    body: Incoming,
    connection: Connection,
}

impl Opened {
    fn of(response: Response<Incoming>, connection: Connection) -> Self {
        let (head, body) = response.into_parts();
        let head = OpenedHead { status: head.status.as_u16(), headers: head.headers };
        Self { head, body, connection }
    }

    fn reading(self, wire: Arc<Wire>, references: bool) -> Answer {
        let Self { body, connection, .. } = self;
        Answer { wire, body, connection, rest: Bytes::new(), references }
    }
}

/// The body of an answer, read as it comes.
pub struct Answer {
    wire: Arc<Wire>,
    body: Incoming,
    connection: Connection,
    rest: Bytes,
    references: bool,
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Self { wire, body, connection, .. } = self;
            let frame = wire.wait(next_frame(body, connection, wire.server()))?;
            match frame {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        self.wire.count(length, self.references)?;
        Ok(length)
    }
}

/// `None` at the end; frames that are no data are empty.
async fn next_frame(
    body: &mut Incoming,
    connection: &mut Connection,
    server: &str,
) -> Result<Option<Bytes>, WireFault> {
    loop {
        // Cancel safe: a frame is taken whole or stays; the connection's future lives on.
        tokio::select! {
            biased;
            frame = body.frame() => {
                let closed = |_| WireFault::Closed { server: server.to_owned() };
                let frame = frame.transpose().map_err(closed)?;
                return Ok(frame.map(|frame| frame.into_data().unwrap_or_default()));
            }
            () = &mut *connection => {}
        }
    }
}

/// libgit2 asks both of every stream; an answer takes nothing.
impl Write for Answer {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("an answer is read only"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One request of the negotiation: written whole, sent when its answer is first read.
pub struct Question {
    https: Arc<Https>,
    request: Vec<u8>,
    answer: Option<Answer>,
}

impl Write for Question {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Question {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = match &mut self.answer {
            Some(answer) => answer,
            none => none.insert(self.https.answer(std::mem::take(&mut self.request))?),
        };
        answer.read(buffer)
    }
}

/// Whom this source trusts.
fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, WireFault> {
    let mut roots = RootCertStore::empty();
    // What the system has in its folder and this library cannot read is nobody's authority.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut own = Vec::new();
    if let Some(file) = ca_file {
        own = authorities(file)?;
        roots.add_parsable_certificates(own.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |cause: String| WireFault::Authorities {
        file: ca_file.map_or_else(|| PathBuf::from("the system's certificates"), Path::to_owned),
        cause,
    };
    let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let verifier = Arc::new(OwnOrSigned { own, chain, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, WireFault> {
    let failed = |cause: String| WireFault::Authorities { file: file.to_owned(), cause };
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates = read.map_err(|error| failed(format!("caFile cannot be read: {error}")))?;
    if certificates.is_empty() {
        return Err(failed("caFile holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

/// The usual verdict, with one thing more: a server whose very certificate stands in `caFile` is
/// trusted under the names in it. That is how small self-hosted servers are set up (one self-signed
/// certificate), and the usual verdict refuses a certificate that is its own authority.
#[derive(Debug)]
struct OwnOrSigned {
    own: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnOrSigned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.iter().any(|own| own.as_ref() == certificate.as_ref()) {
            let parsed = ParsedCertificate::try_from(certificate)?;
            rustls::client::verify_server_name(&parsed, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chain.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
