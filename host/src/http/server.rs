//! Connections: accepted, timed, drained. What is asked over them is the router's business.
//!
//! The loop is our own so that a client that is slow, silent or gone costs a bounded time, and so that a drain waits for
//! requests to generate and for nothing else, while whoever comes meanwhile is told of it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::connection::{Connection, Overdue, Socket};
use super::stage::Stage;
use super::{App, router};

/// Largest head of a request, and largest trailer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Rest after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one warning of a kind in this time.
const WARNINGS: Duration = Duration::from_secs(60);
/// For a client to read our last words while it still sends.
const LINGER: Duration = Duration::from_secs(2);
/// A drain takes at least this long: what came before it lies in the system's buffers and is answered as well.
const LAST_CALL: Duration = Duration::from_millis(100);

/// Accepts and serves connections until the server has drained and the last of them is closed.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let router = router(app.clone());
    let most = app.limits.connections();
    let places = Arc::new(Semaphore::new(most));
    tokio::select! {
        () = accept(listener, &app, &router, &places) => {}
        () = drained(&app) => {}
    }
    app.progress.reach(Stage::Leaving);
    // All places are free when all connections are closed.
    let _ = places.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await;
}

/// Waits until the server is told to drain, and then until all that was let in is answered.
async fn drained(app: &App) {
    app.progress.reached(Stage::Draining).await;
    tokio::time::sleep(LAST_CALL).await;
    app.progress.emptied().await;
}

/// Gives each connection a task. Beyond the limit none is accepted: they wait in the system's queue until one is closed.
async fn accept(listener: TcpListener, app: &Arc<App>, router: &Router, places: &Arc<Semaphore>) {
    let (mut full, mut failing) = (Seldom::default(), Seldom::default());
    loop {
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                full.warn(|| {
                    format!("all {} connections are in use: more have to wait", app.limits.connections())
                });
                places.clone().acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let connection = Arc::new(Connection::new(remote));
                tokio::spawn(attend(stream, connection, app.clone(), router.clone(), place));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                failing.warn(|| format!("connections cannot be accepted: {error}; trying again"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether only the connection that would have been accepted is broken.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Says something that may be true a thousand times a second only now and then.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn warn(&mut self, words: impl FnOnce() -> String) {
        if self.0.is_none_or(|last| last.elapsed() > WARNINGS) {
            self.0 = Some(Instant::now());
            tracing::warn!("{}", words());
        }
    }
}

/// One connection from its beginning to its end.
async fn attend(
    stream: TcpStream,
    connection: Arc<Connection>,
    app: Arc<App>,
    router: Router,
    place: OwnedSemaphorePermit,
) {
    // Tokens are small and each matters at once. A socket that is dead already will say so when it is read.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Socket::new(stream, connection.clone()));
    let mut http = http1::Builder::new();
    // Timed by us: the library does not tell a connection that idles from a request that dawdles.
    http.header_read_timeout(None).max_header_size(MAX_HEAD);
    let mut served = http.serve_connection(io, answering(router, connection.clone()));
    let end = converse(&mut served, &connection, &app).await;
    connection.let_go();
    match end {
        End::Said => {
            let parting = linger(served.into_parts().io.into_inner());
            tokio::select! {
                () = parting => {}
                () = app.progress.reached(Stage::Closing) => {}
            }
        }
        End::Overdue(overdue) => {
            connection.cut(overdue);
            let socket = served.into_parts().io.into_inner();
            // Who has merely nothing more to ask may still be reading.
            if overdue == Overdue::Write {
                socket.forget();
            }
        }
        End::NotWanted => {}
    }
    drop(place);
}

/// The router, which is told on which connection it is asked.
fn answering(
    router: Router,
    connection: Arc<Connection>,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send + Unpin>
+ Send
+ Unpin {
    let router = TowerToHyperService::new(router);
    service_fn(move |mut request: hyper::Request<Incoming>| {
        connection.begin();
        request.extensions_mut().insert(connection.clone());
        router.call(request.map(Body::new))
    })
}

/// How a connection ends.
enum End {
    /// Everything is said.
    Said,
    Overdue(Overdue),
    /// The server is on its way out.
    NotWanted,
}

/// Lets requests come and answers go until the end.
async fn converse<S>(
    served: &mut http1::Connection<TokioIo<Socket>, S>,
    connection: &Connection,
    app: &App,
) -> End
where
    S: Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send + Unpin>
        + Unpin,
{
    let mut alarm = Alarm::default();
    let mut heard = Stage::Serving;
    loop {
        // Whatever changes the deadline happens while the connection is polled.
        let ended = poll_fn(|cx| {
            let turn = served.poll_without_shutdown(cx);
            connection.settle();
            match turn {
                Poll::Ready(_) => Poll::Ready(End::Said),
                Poll::Pending => alarm.poll(connection.deadline(&app.limits), cx).map(End::Overdue),
            }
        });
        tokio::select! {
            biased;
            () = app.progress.reached(Stage::Closing) => return End::NotWanted,
            // Before the stage: who has sent a request is not idle.
            end = ended => return end,
            () = app.progress.passed(heard) => {}
        }
        heard = app.progress.now();
        if connection.is_busy() {
            Pin::new(&mut *served).graceful_shutdown();
        } else if heard >= Stage::Leaving {
            return End::NotWanted;
        }
    }
}

/// Lets a client that still sends read our last words, such as that its body is too large: the system takes them back
/// from a client whose bytes nobody read.
async fn linger(mut socket: Socket) {
    let parting = async {
        socket.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        while socket.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that is gone or does not end has had its time.
    let _ = tokio::time::timeout(LINGER, parting).await;
}

/// Sleeps until a deadline that moves.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, deadline: Option<(Instant, Overdue)>, cx: &mut Context<'_>) -> Poll<Overdue> {
        let Some((at, why)) = deadline else { return Poll::Pending };
        let at = tokio::time::Instant::from_std(at);
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).map(|()| why)
    }
}
