//! One request's way through the gate: is it meant for this listener, whose is it, may its sender
//! have that much, and, when it is answered, is it to be written down. What is behind the gate finds
//! a [`Session`] in the request's extensions and no `Authorization` header.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::api::access::{Identity, Role};
use crate::api::compression::Compressed;
use crate::api::gate::allowance::{Allowances, Excess, Share};
use crate::api::gate::audit::{Audit, Audited};
use crate::api::gate::connections::Place;
use crate::api::gate::credential::{Fingerprint, Proof, bearer, fingerprint};
use crate::api::gate::credential_file::{Credentials, Known};
use crate::api::gate::host::{self, Asked};
use crate::api::gate::session::{Held, Session};
use crate::api::gate::tls::Tls;
use crate::api::reply::error_reply;
use crate::clock::Clock;
use crate::object::{ApiError, Reason};

/// What is answered behind TLS without a credential: whether the daemon is alive and what it is, as
/// the reference server's `system:public-info-viewer` allows.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Signed deliveries, which need no other proof and wait for nobody's share.
const WEBHOOK: &str = "/webhook/";

/// Who comes in.
#[derive(Clone)]
pub enum Entry {
    /// Everybody on this machine, as a reader.
    Loopback,
    /// Whoever shows a credential.
    Secured { tls: Tls, credentials: Credentials, operator: bool },
    /// Webhooks alone.
    Webhook,
}

/// What a gate is made of.
pub struct GateOptions {
    pub entry: Entry,
    /// `None` keeps no audit log: a listener of webhooks, tests.
    pub audit: Option<Audit>,
    /// Of each identity.
    pub share: Share,
    pub clock: Clock,
}

/// The gate of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    entry: Entry,
    audit: Option<Audit>,
    allowances: Allowances,
    clock: Clock,
    /// What those have who have no credential that could end.
    endless: CancellationToken,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub certificate: Option<Fingerprint>,
    pub place: Arc<Place>,
}

/// Somebody who may come in.
struct Visitor {
    who: Identity,
    ended: CancellationToken,
}

impl Gate {
    pub fn new(options: GateOptions) -> Self {
        let GateOptions { entry, audit, share, clock } = options;
        let allowances = Allowances::new(share);
        let endless = CancellationToken::new();
        Self { inner: Arc::new(Inner { entry, audit, allowances, clock, endless }) }
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        match &self.inner.entry {
            Entry::Secured { tls, .. } => Some(tls),
            Entry::Loopback | Entry::Webhook => None,
        }
    }

    /// Answers one request of a connection.
    pub(crate) async fn answer(
        &self,
        peer: &Peer,
        router: Router,
        request: Request<Body>,
    ) -> Response {
        let busy = peer.place.busy();
        let method = request.method().as_str().to_owned();
        let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str()).to_owned();
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let (who, mut response) = match self.admitted(peer, &request) {
            Ok(Visitor { who, ended }) => {
                let session = Session::new(who.clone(), peer.address, ended, busy);
                (who, self.routed(session, router, request).await)
            }
            Err((who, error)) => (who, error_reply(&error)),
        };
        // Whether a length stood beside it nobody knows any more: what comes behind such a body may be
        // a request to this server and none to a proxy before it (RFC 9112, 6.3).
        if chunked {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(audit) = &self.inner.audit
            && let Some(audited) = Audited::of(&who, &method, &asked)
        {
            let (code, now) = (response.status().as_u16(), self.inner.clock.now());
            audit.record(audited.line(&who, peer.address, code, now)).await;
        }
        response
    }

    /// Who it is; else who is refused, and why.
    fn admitted(
        &self,
        peer: &Peer,
        request: &Request<Body>,
    ) -> Result<Visitor, (Identity, ApiError)> {
        let visitor = |who| Visitor { who, ended: self.inner.endless.clone() };
        let (tls, credentials, operator) = match &self.inner.entry {
            Entry::Webhook => return Ok(visitor(Identity::Reader)),
            Entry::Loopback => {
                return meant_for(request, &|_| false)
                    .map(|()| visitor(Identity::Reader))
                    .map_err(|error| (Identity::Reader, error));
            }
            Entry::Secured { tls, credentials, operator } => (tls, credentials, *operator),
        };
        meant_for(request, &|asked| match asked {
            Asked::ThisMachine => false,
            Asked::Address => true,
            Asked::Name(name) => tls.is_named(name),
        })
        .map_err(|error| (Identity::Reader, error))?;
        let unknown = |why: &str| {
            debug!(from = %peer.address, why, "not let in");
            // The reference server's whole answer: it helps nobody who guesses.
            (Identity::Reader, ApiError::new(Reason::Unauthorized, "Unauthorized"))
        };
        // As the reference server: a certificate first, then a token.
        let by_certificate =
            peer.certificate.and_then(|shown| credentials.find(Proof::Certificate, &shown));
        let known: Option<Known> = match (by_certificate, token(request.headers())) {
            (Some(known), _) => Some(known),
            (None, Ok(None)) if peer.certificate.is_some() => {
                return Err(unknown("the certificate was revoked, has expired or is unknown"));
            }
            (None, Ok(None)) => None,
            (None, Ok(Some(token))) => Some(
                credentials
                    .find(Proof::Token, &fingerprint(token.as_bytes()))
                    .ok_or_else(|| unknown("the token was revoked, has expired or is unknown"))?,
            ),
            (None, Err(why)) => return Err(unknown(why)),
        };
        match known {
            Some(known) if known.identity.role() == Role::Operator && !operator => {
                let off = "the role operator is off in this daemon: whoever runs it turns it on with `operator: true` in its configuration";
                Err((known.identity, ApiError::new(Reason::Forbidden, off)))
            }
            Some(known) => Ok(Visitor { who: known.identity, ended: known.ended }),
            None if is_open(request.method(), request.uri().path()) => {
                Ok(visitor(Identity::Reader))
            }
            None => Err(unknown("no credential was shown")),
        }
    }

    /// The router's answer, within the identity's share.
    async fn routed(
        &self,
        session: Session,
        router: Router,
        mut request: Request<Body>,
    ) -> Response {
        request.headers_mut().remove(header::AUTHORIZATION);
        request.extensions_mut().insert(session.clone());
        let webhook = request.uri().path().starts_with(WEBHOOK);
        let allowance = self.inner.allowances.of(&session.who.name());
        let response = if webhook {
            routed(router, request).await
        } else {
            let place = match allowance.request().await {
                Ok(place) => place,
                Err(excess) => return error_reply(&too_many(&session, excess)),
            };
            let response = routed(router, request).await;
            drop(place);
            response
        };
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let endless = response.body().size_hint().exact().is_none()
            && response.extensions().get::<Compressed>().is_none();
        let streams = switched || endless;
        if streams {
            match allowance.stream() {
                // The first and only time: a session is one request's.
                Ok(permit) => drop(session.held.stream.set(permit)),
                Err(excess) => return error_reply(&too_many(&session, excess)),
            }
        }
        let Session { ended, held, .. } = session;
        let ended = streams.then(|| Box::pin(ended.cancelled_owned()));
        response.map(|body| Body::new(Attended { body, ended, over: false, _held: held }))
    }
}

async fn routed(router: Router, request: Request<Body>) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn is_open(method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    path.starts_with(WEBHOOK) || reads && OPEN.contains(&path)
}

/// The one token that a request shows; `None` for none.
fn token(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err("two Authorization headers"),
        (Some(one), None) => {
            let text = one.to_str().map_err(|_| "an Authorization header that is no text")?;
            bearer(text).map(Some).ok_or("an Authorization header that is no bearer token")
        }
    }
}

/// Whether the request is meant for this listener: by its `Host`, by its URL where that is absolute,
/// and by the page that sent it, where a page did. Loopback is always meant.
fn meant_for<B>(request: &Request<B>, is_ours: &dyn Fn(&Asked) -> bool) -> Result<(), ApiError> {
    let wrong = |why: &str| ApiError::new(Reason::Forbidden, why);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(wrong("a request has exactly one Host header"));
    };
    let host = host.to_str().unwrap_or_default();
    let named = request.uri().authority().map(axum::http::uri::Authority::as_str);
    for authority in [Some(host), named].into_iter().flatten() {
        let meant = host::asked(authority)
            .is_some_and(|asked| asked == Asked::ThisMachine || is_ours(&asked));
        if !meant {
            return Err(wrong(
                "this Host is not served here: ask for localhost, or behind TLS for an address or for a name in the certificate (tlsNames)",
            ));
        }
    }
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let own =
        |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| host::is_own_page(origin, host));
    if !origins.all(own) {
        return Err(wrong("pages of other sites are not served here"));
    }
    Ok(())
}

/// The reference server's words, and for the daemon's log which bound it was.
fn too_many(session: &Session, excess: Excess) -> ApiError {
    let (who, from) = (session.who.name(), session.from);
    warn!(who, %from, ?excess, "more than one identity's share of the listener");
    let message = "Too many requests, please try again later.";
    let mut error = ApiError::new(Reason::TooManyRequests, message);
    let details = StatusDetails { retry_after_seconds: Some(1), ..StatusDetails::default() };
    error.details = Some(Box::new(details));
    error
}

/// An answer's body: it keeps the connection's place until it is over, and a stream is over when its
/// credential is.
struct Attended {
    body: Body,
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    over: bool,
    _held: Arc<Held>,
}

impl HttpBody for Attended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(ended) = &mut self.ended
            && ended.as_mut().poll(context).is_ready()
        {
            (self.ended, self.over) = (None, true);
        }
        if self.over {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(host: &str, origin: Option<&str>) -> Request<()> {
        let mut request = Request::get("/api").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn a_foreign_name_or_page_is_refused() {
        let none = |_: &Asked| false;
        let named = |asked: &Asked| matches!(asked, Asked::Name(name) if name == "ops.example");
        assert!(meant_for(&asking("localhost:7440", None), &none).is_ok());
        assert!(meant_for(&asking("ops.example", None), &none).is_err());
        assert!(meant_for(&asking("ops.example", None), &named).is_ok());
        assert!(meant_for(&asking("evil.example", None), &named).is_err());
        let own = Some("http://localhost:7440");
        assert!(meant_for(&asking("localhost:7440", own), &none).is_ok());
        for page in ["http://evil.example", "http://localhost:3000", "null"] {
            assert!(meant_for(&asking("localhost:7440", Some(page)), &none).is_err(), "{page}");
        }
        let absolute = Request::get("http://evil.example/api").header(header::HOST, "localhost");
        assert!(meant_for(&absolute.body(()).expect("a request"), &none).is_err());
    }

    #[test]
    fn one_authorization_header_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), Ok(None));
        headers.append(header::AUTHORIZATION, "Bearer x".parse().expect("a header"));
        assert_eq!(token(&headers), Ok(Some("x")));
        headers.append(header::AUTHORIZATION, "Bearer y".parse().expect("a header"));
        assert!(token(&headers).is_err());
    }
}
