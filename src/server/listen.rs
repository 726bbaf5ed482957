//! Connections: accepting them, TLS, and the deadlines that keep any of them from staying
//! for ever.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::error::{About, Error, Kind, Result};

use super::certificate::Certificate;
use super::crowd::{Crowd, Place};
use super::problem::Problem;
use super::routes::Peer;

/// For a request's head to come, counted from when the connection is free for one. Longer than
/// clients keep idle connections, so that it is they who close them.
const HEAD: Duration = Duration::from_secs(100);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For a client that takes nothing of what is sent to it.
const STALL: Duration = Duration::from_secs(60);
/// For requests in progress when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// Longest head of a request: a path of 4,096 bytes, all of them percent-encoded, and headers.
const HEAD_BYTES: usize = 64 << 10;

/// Connections at a time whose refusal is said; the others beyond their address's are just closed.
const REFUSALS: usize = 16;
/// For a client to hear it.
const REFUSAL: Duration = Duration::from_secs(2);

/// Accepts connections until `closing`; then lets requests in progress end.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    tls: Option<Certificate>,
    connections: usize,
    closing: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let crowd = Crowd::of(connections);
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = closing.cancelled() => break,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: pause instead of spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = crowd.admit(peer) else {
            // Within TLS it would take a handshake to say it.
            if let (None, Ok(turn)) = (&tls, refusals.clone().try_acquire_owned()) {
                tokio::spawn(async move {
                    let _ = timeout(REFUSAL, refuse(stream)).await;
                    drop(turn);
                });
            }
            continue;
        };
        let tls = tls.as_ref().map(Certificate::now);
        let (router, watcher) = (router.clone(), graceful.watcher());
        let cut = cut.clone();
        tokio::spawn(async move {
            let _held: (_, Place) = (permit, place);
            tokio::select! {
                () = converse(stream, peer, router, tls, watcher) => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    if timeout(FAREWELL, graceful.shutdown()).await.is_err() {
        tracing::info!("connections that are still busy are cut");
        cut.cancel();
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    let reached = stream.local_addr().map(|at| at.ip());
    let peer = reached.map_or(peer.ip(), |reached| who(peer.ip(), reached));
    Ok((stream, peer, permit))
}

/// Whom a client counts as: one that has the address at which it reached us is on this machine.
fn who(peer: IpAddr, reached: IpAddr) -> IpAddr {
    match peer.to_canonical() == reached.to_canonical() {
        true => Ipv4Addr::LOCALHOST.into(),
        false => peer,
    }
}

/// Says that the address has too many connections, and closes when the client has heard it.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let why = "this address has all connections that one address may have";
    let answer = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(1);
    let (head, body) = answer.into_response().into_parts();
    let body = axum::body::to_bytes(body, HEAD_BYTES).await;
    let body = body.map_err(io::Error::other)?;
    let mut text = format!("HTTP/1.1 {}\r\n", head.status);
    for (name, value) in &head.headers {
        let value = value.to_str().unwrap_or_default();
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = body.len();
    text.push_str(&format!(
        "content-length: {length}\r\nconnection: close\r\n\r\n"
    ));
    stream.write_all(&[text.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    // What it sent is read: closed over unread bytes, the connection would be reset, and the
    // answer lost.
    let mut sink = [0; 4096];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn converse(
    stream: TcpStream,
    peer: IpAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    watcher: Watcher,
) {
    // Without it small answers wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream);
    match tls {
        None => requests(stream, peer, router, watcher).await,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => requests(stream, peer, router, watcher).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS with this client"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        },
    }
}

async fn requests<S>(stream: S, peer: IpAddr, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Binds, with an error that says what to do.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener> {
    let place = format!("{host}:{port}");
    match TcpListener::bind((host, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::new(
            Kind::Busy,
            "another program listens there already; choose another --port",
        )
        .about(place)),
        other => other.about(place),
    }
}

/// The address that others reach us at: of the interface that packets to the world leave by.
/// Nothing is sent.
pub fn lan_address(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let ask = |far: &str| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((far, 80))?;
        socket.local_addr()
    };
    ask("8.8.8.8")
        .or_else(|_| ask("192.0.2.1"))
        .map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// A stream whose writes fail when the other side takes nothing for [`STALL`].
struct Patient {
    stream: TcpStream,
    limit: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Patient {
        Patient {
            stream,
            limit: None,
        }
    }

    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match act(Pin::new(&mut self.stream), context) {
            Poll::Ready(done) => {
                self.limit = None;
                Poll::Ready(done)
            }
            Poll::Pending => {
                let limit = self
                    .limit
                    .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
                ready!(limit.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .timed(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().timed(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .timed(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .timed(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_who_comes_from_the_servers_own_address_is_on_its_machine() {
        for (peer, reached, is_own) in [
            ("192.168.1.20", "192.168.1.20", true),
            ("::ffff:192.168.1.20", "192.168.1.20", true),
            ("fd00::20", "fd00::20", true),
            ("127.0.0.1", "192.168.1.20", true),
            ("192.168.1.21", "192.168.1.20", false),
            ("fd00::21", "fd00::20", false),
        ] {
            let seen = who(peer.parse().unwrap(), reached.parse().unwrap());
            assert_eq!(seen.is_loopback(), is_own, "{peer} at {reached}");
        }
    }
}
