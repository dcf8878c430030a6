//! Sockets in a pod's network: what listens only on the pod's own `localhost` is reached from there
//! alone. The kernel gives a socket the network namespace of the thread that makes it, for the
//! socket's life. So a thread of its own enters the pod's namespace, makes sockets and ends; they are
//! used from anywhere then. This file enters network namespaces, `uts.rs` those of host names, and no
//! other enters any.
//!
//! Which process has the pod's namespace is the engine's word, and a number only: the process may
//! have ended and its number be another's, or the engine may count processes in a namespace of its
//! own. A namespace counts as the pod's when the pod's address can be bound in it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as Unconnected};
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;

/// For each attempt: containerd's `dialTimeout` of a port-forward.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Threads at a time; each lives for a few system calls.
static THREADS: Semaphore = Semaphore::const_new(8);

/// Why there is no connection. In the words of containerd's port-forward, which kubectl's users know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "failed to connect to localhost:{port} inside namespace \"{sandbox}\", IPv4: dial tcp4 127.0.0.1:{port}: {v4} IPv6: dial tcp6 [::1]:{port}: {v6}"
    )]
    Localhost { sandbox: String, port: u16, v4: String, v6: String },
    #[error(
        "failed to connect to {address}, which was asked instead of localhost, because the daemon may not enter the pod's network namespace ({why}; it needs CAP_SYS_ADMIN and CAP_SYS_PTRACE): {failure}"
    )]
    Outside { address: SocketAddr, why: String, failure: String },
    #[error("failed to find the network namespace of sandbox \"{sandbox}\": {why}")]
    NoNamespace { sandbox: String, why: String },
}

/// A running pod's sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub id: String,
    /// Of its first process, as this host counts.
    pub process: i64,
    pub address: Ipv4Addr,
}

/// Connects to a port of the pod's localhost: IPv4 first, then IPv6, as its own processes would.
/// Where the daemon may not enter the pod's network, it asks the pod's address from outside.
///
/// # Errors
/// [`ConnectError`].
pub(crate) async fn connect(sandbox: Sandbox, port: u16) -> Result<TcpStream, ConnectError> {
    let Sockets { v4, v6 } = match sockets_in(sandbox.clone()).await {
        Ok(sockets) => sockets,
        Err(failure) if may_not(&failure) => {
            return from_outside(SocketAddr::new(sandbox.address.into(), port), &failure).await;
        }
        Err(failure) => {
            let why = failure.to_string();
            return Err(ConnectError::NoNamespace { sandbox: sandbox.id, why });
        }
    };
    let v4 = match connected(v4, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(stream),
        Err(failure) => failure,
    };
    let v6 = match v6 {
        Some(v6) => match connected(v6, Ipv6Addr::LOCALHOST.into(), port).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        },
        // The resolver's words where the host has no IPv6.
        None => "address localhost: no suitable address".to_owned(),
    };
    Err(ConnectError::Localhost { sandbox: sandbox.id, port, v4, v6 })
}

fn may_not(failure: &io::Error) -> bool {
    failure.kind() == ErrorKind::PermissionDenied
}

async fn from_outside(address: SocketAddr, why: &io::Error) -> Result<TcpStream, ConnectError> {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        warn!(%why, "the daemon may not enter the network namespaces of pods: port-forward reaches what listens on a pod's address, not what listens on localhost alone");
    });
    let failure = match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(failure)) => words(&failure),
        Err(_) => TIMED_OUT.to_owned(),
    };
    Err(ConnectError::Outside { address, why: words(why), failure })
}

async fn connected(socket: TcpSocket, to: IpAddr, port: u16) -> Result<TcpStream, String> {
    match timeout(CONNECT_TIME, socket.connect(SocketAddr::new(to, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(failure)) => Err(format!("connect: {}", words(&failure))),
        Err(_) => Err(TIMED_OUT.to_owned()),
    }
}

const TIMED_OUT: &str = "i/o timeout";

/// Go's words for what most often happens, which are what people look for.
fn words(failure: &io::Error) -> String {
    match failure.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::PermissionDenied => "operation not permitted".to_owned(),
        _ => failure.to_string(),
    }
}

/// Sockets of a namespace, not connected yet.
struct Sockets {
    v4: TcpSocket,
    /// `None`: the kernel has no IPv6.
    v6: Option<TcpSocket>,
}

async fn sockets_in(sandbox: Sandbox) -> io::Result<Sockets> {
    let (answer, answered) = oneshot::channel();
    let turn = THREADS.acquire().await.map_err(io::Error::other)?;
    std::thread::Builder::new().name("pod network".to_owned()).spawn(move || {
        // Where nobody waits any more, the sockets are closed.
        let _ = answer.send(enter(&sandbox));
    })?;
    let sockets = answered.await.map_err(io::Error::other)?;
    drop(turn);
    sockets
}

/// Moves this thread into the pod's network, for good.
fn enter(sandbox: &Sandbox) -> io::Result<Sockets> {
    let namespace = File::open(format!("/proc/{}/ns/net", sandbox.process))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    bind(socket(AddressFamily::INET)?, &SocketAddr::new(sandbox.address.into(), 0)).map_err(
        |failure| {
            let (process, address) = (sandbox.process, sandbox.address);
            io::Error::other(format!(
                "process {process} is not in it: {address} is not there ({failure})"
            ))
        },
    )?;
    Ok(Sockets {
        v4: TcpSocket::from_std_stream(socket(AddressFamily::INET)?),
        v6: socket(AddressFamily::INET6).ok().map(TcpSocket::from_std_stream),
    })
}

fn socket(family: AddressFamily) -> io::Result<Unconnected> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_without_the_pods_address_is_not_the_pods() {
        // Our own: whether we may enter it or not, 192.0.2.1 (TEST-NET-1) is in nobody's.
        let process = i64::from(std::process::id());
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let sandbox = Sandbox { id: "s".into(), process, address };
        match sockets_in(sandbox).await.map(|_| ()) {
            Err(failure) if may_not(&failure) => {}
            Err(failure) => {
                assert!(failure.to_string().contains("192.0.2.1 is not there"), "{failure}")
            }
            Ok(()) => panic!("entered"),
        }
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_told() {
        let sandbox = Sandbox { id: "s".into(), process: 0, address: Ipv4Addr::LOCALHOST };
        let failure = connect(sandbox, 80).await.expect_err("no such process");
        let expected = "failed to find the network namespace of sandbox \"s\": ";
        assert!(failure.to_string().starts_with(expected), "{failure}");
    }
}
