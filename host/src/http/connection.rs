//! What one connection is doing, and until when it may: seen by its socket and its requests, kept by its task.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Limits;
use super::stage::Stay;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come since it was opened.
    New,
    /// Nothing has come since the last answer.
    Idle,
    /// Some of a request's headers have come.
    Head,
    /// A request is being answered; reading its body is timed there.
    Busy,
}

/// Why a connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    Header,
    Idle,
    Write,
}

#[derive(Debug)]
struct Activity {
    phase: Phase,
    since: Instant,
    /// Since when the client takes nothing of what is ready for it.
    blocked: Option<Instant>,
    /// Lets a drain wait for the request that is answered.
    stay: Option<Stay>,
}

impl Activity {
    /// The last bytes of an answer leave our buffers after the answer has ended.
    fn owes(&self) -> bool {
        self.phase == Phase::Busy || self.blocked.is_some()
    }
}

/// A connection as its parts see it.
#[derive(Debug)]
pub struct Connection {
    pub remote: SocketAddr,
    activity: Mutex<Activity>,
}

impl Connection {
    pub fn new(remote: SocketAddr) -> Self {
        let activity = Activity { phase: Phase::New, since: Instant::now(), blocked: None, stay: None };
        Connection { remote, activity: Mutex::new(activity) }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().expect("no holder panics")
    }

    fn enter(&self, phase: Phase) {
        let mut activity = self.activity();
        (activity.phase, activity.since) = (phase, Instant::now());
    }

    /// A request's headers are complete.
    pub fn begin(&self) {
        self.enter(Phase::Busy);
    }

    /// Its answer is written, as far as it depends on us.
    pub fn end(&self) {
        self.enter(Phase::Idle);
    }

    /// Whether a request is being answered, or its answer is not all on its way.
    pub fn is_busy(&self) -> bool {
        self.activity().owes()
    }

    /// A drain waits for the request that is being answered.
    pub fn keep(&self, stay: Stay) {
        self.activity().stay = Some(stay);
    }

    /// To be asked when the connection has had its turn: a drain does not wait for what is written.
    pub fn settle(&self) {
        let mut activity = self.activity();
        if !activity.owes() {
            activity.stay = None;
        }
    }

    /// Nothing more is written, whatever was owed.
    pub fn let_go(&self) {
        self.activity().stay = None;
    }

    /// Until when something has to happen.
    pub fn deadline(&self, limits: &Limits) -> Option<(Instant, Overdue)> {
        let Activity { phase, since, blocked, .. } = *self.activity();
        let write = blocked.zip(limits.write).map(|(since, time)| (since + time, Overdue::Write));
        let read = match phase {
            Phase::New | Phase::Head => limits.header.map(|time| (since + time, Overdue::Header)),
            // Until the last answer is taken, the next request need not come.
            Phase::Idle if blocked.is_some() => None,
            Phase::Idle => limits.idle.map(|time| (since + time, Overdue::Idle)),
            Phase::Busy => None,
        };
        [write, read].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Says why it is cut. Whoever has a request on it learns it from being dropped.
    pub fn cut(&self, overdue: Overdue) {
        let why = match overdue {
            Overdue::Header => "its request's headers do not come",
            Overdue::Idle => "it has been idle for long",
            Overdue::Write => "its client takes nothing of its answer",
        };
        tracing::debug!("connection of {} closed: {why}", self.remote);
    }

    /// Bytes came in.
    fn received(&self) {
        match self.activity().phase {
            // Those of a new connection are timed from its beginning.
            Phase::New | Phase::Head | Phase::Busy => return,
            Phase::Idle => {}
        }
        self.enter(Phase::Head);
    }

    /// An attempt to write went through, or could not.
    fn wrote(&self, blocked: bool) {
        let mut activity = self.activity();
        activity.blocked = if blocked { activity.blocked.or_else(|| Some(Instant::now())) } else { None };
    }
}

/// A socket whose connection hears of what comes and goes.
pub struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Socket {
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Socket { stream, connection }
    }

    /// Closes it without what its client has not taken, which the system would hold for minutes.
    pub fn forget(self) {
        // Without this the system does as it would.
        let _ = self.stream.set_zero_linger();
    }

    fn heard<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.connection.wrote(written.is_pending());
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.connection.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.heard(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.heard(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            max_body: 1,
            max_tokens: 1,
            max_connections: None,
            header: Some(10 * SECOND),
            body: None,
            idle: Some(75 * SECOND),
            write: Some(60 * SECOND),
            request: None,
            queue: None,
            keep_alive: None,
        }
    }

    fn connection() -> Connection {
        Connection::new(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    #[track_caller]
    fn check(connection: &Connection, expected: Option<Overdue>) {
        assert_eq!(connection.deadline(&limits()).map(|(_, why)| why), expected, "{connection:?}");
    }

    #[test]
    fn each_phase_has_its_time() {
        let c = connection();
        check(&c, Some(Overdue::Header));
        c.begin();
        check(&c, None);
        c.end();
        check(&c, Some(Overdue::Idle));
        c.received();
        check(&c, Some(Overdue::Header));
    }

    #[test]
    fn bytes_that_trickle_in_win_no_time() {
        let c = connection();
        let deadline = c.deadline(&limits());
        c.received();
        assert_eq!(c.deadline(&limits()), deadline);
        c.end();
        c.received();
        let deadline = c.deadline(&limits());
        c.received();
        assert_eq!(c.deadline(&limits()), deadline);
    }

    #[test]
    fn a_client_that_takes_nothing_is_timed_from_when_it_stopped() {
        let c = connection();
        c.begin();
        c.wrote(true);
        let deadline = c.deadline(&limits());
        c.wrote(true);
        assert_eq!(c.deadline(&limits()), deadline);
        // The answer is in our buffers; the client still has to take it.
        c.end();
        check(&c, Some(Overdue::Write));
        assert!(c.is_busy());
        c.wrote(false);
        check(&c, Some(Overdue::Idle));
        assert!(!c.is_busy());
    }

    #[tokio::test]
    async fn a_drain_waits_for_what_is_owed_and_not_for_the_connection() {
        let progress = super::super::Progress::default();
        let inside = || async { tokio::time::timeout(SECOND / 100, progress.emptied()).await.is_err() };
        let c = connection();
        c.begin();
        c.keep(progress.enter().expect("it serves"));
        c.settle();
        assert!(inside().await, "it is answered");
        c.wrote(true);
        c.end();
        c.settle();
        assert!(inside().await, "its answer is not taken");
        c.wrote(false);
        c.settle();
        assert!(!inside().await);
    }
}
