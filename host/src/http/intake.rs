//! Takes in the body of a request: no more than is allowed, not for longer, and not more of them at once than there is
//! room for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use super::error::ApiError;
use super::stage::Stage;
use super::turns::SHORT;

/// Bytes for which a body gets a second more. A client that sends less in a second is stopped in the end.
const BYTES_PER_SECOND: usize = 16 << 10;
/// As many of the longest bodies are held at once, or more of shorter ones.
const LONGEST_BODIES: usize = 8;

/// The memory that all bodies of more than [`SHORT`] bytes share.
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Where a body has at most so many bytes.
    pub fn new(max_body: usize) -> Self {
        let bytes = max_body.saturating_mul(LONGEST_BODIES).min(Semaphore::MAX_PERMITS);
        Room(Arc::new(Semaphore::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        // A number that no `u32` holds is more than there is.
        let permits = u32::try_from(bytes).map_err(|_| ApiError::NoRoom)?;
        self.0.clone().try_acquire_many_owned(permits).map_err(|_| ApiError::NoRoom)
    }
}

/// A body, or the beginning of one. What it took of the room is given back with it.
#[derive(Default)]
pub struct Taken {
    pub bytes: Vec<u8>,
    place: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// Appends to what will be `most` bytes long at most.
    fn push(&mut self, room: &Room, data: &[u8], most: usize) -> Result<(), ApiError> {
        let length = self.bytes.len() + data.len();
        if length > self.bytes.capacity() {
            let size = (2 * self.bytes.capacity()).min(most).max(length);
            self.hold(room, size)?;
            self.bytes.reserve_exact(size - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Takes room for `size` bytes in all. Short bodies need none, so that they come through whatever long ones do.
    fn hold(&mut self, room: &Room, size: usize) -> Result<(), ApiError> {
        if size <= SHORT {
            return Ok(());
        }
        let held = self.place.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = room.take(size - held)?;
        match &mut self.place {
            Some(place) => place.merge(more),
            None => self.place = Some(more),
        }
        Ok(())
    }
}

/// The whole body.
///
/// # Errors
/// [`ApiError::TooLarge`] by its stated length before a byte is read, else as soon as it is; [`ApiError::NoRoom`] as
/// soon as what came finds none; [`ApiError::BodyTimeout`]; [`ApiError::Draining`] if the rest is not worth waiting for;
/// [`ApiError::Body`] if it breaks off.
pub async fn read(app: &App, body: Body) -> Result<Taken, ApiError> {
    let limit = app.limits.max_body;
    let size = body.size_hint();
    if size.lower() > limit as u64 {
        return Err(ApiError::TooLarge { limit });
    }
    let most = size.upper().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(limit).min(limit);
    let mut deadline = app.limits.body.map(|time| Instant::now() + time);
    let mut taken = Taken::default();
    let mut body = body;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = super::until(deadline) => return Err(ApiError::BodyTimeout),
            () = app.progress.reached(Stage::Draining) => return Err(ApiError::Draining),
        };
        let Some(frame) = frame else { return Ok(taken) };
        let frame = frame.map_err(|error| ApiError::Body(crate::error::chain(&error)))?;
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if taken.bytes.len() + data.len() > limit {
            return Err(ApiError::TooLarge { limit });
        }
        taken.push(&app.room, &data, most)?;
        deadline = deadline.zip(app.limits.body).map(|(at, time)| later(at, data.len(), time));
    }
}

/// The deadline after so many bytes, which is never further away than at the beginning: who has sent much at once may
/// not dawdle for long with the rest, and hold the room for it meanwhile.
fn later(deadline: Instant, bytes: usize, time: Duration) -> Instant {
    let earned = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
    (deadline + earned).min(Instant::now() + time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_share_the_room_and_short_ones_need_none() {
        let room = Room::new(SHORT);
        let free = || room.0.available_permits();
        let all = free();
        assert_eq!(all, LONGEST_BODIES * SHORT);
        let mut short = Taken::default();
        for _ in 0..SHORT {
            short.push(&room, b"a", SHORT).expect("short");
        }
        assert_eq!((free(), short.bytes.len()), (all, SHORT));
        let mut long = Taken::default();
        long.push(&room, &[b'a'; 100], all).expect("there is room");
        long.push(&room, &vec![b'b'; SHORT], all).expect("there is room");
        assert_eq!(free(), all - SHORT - 100, "what is there, once");
        long.push(&room, b"c", all).expect("there is room");
        assert_eq!((free(), long.bytes.capacity()), (all - 2 * (SHORT + 100), 2 * (SHORT + 100)));
        let mut other = Taken::default();
        other.push(&room, &vec![0; 5 * SHORT], all).expect("there is room");
        assert!(matches!(other.push(&room, &vec![0; SHORT], all), Err(ApiError::NoRoom)));
        drop(long);
        other.push(&room, &vec![0; SHORT], 6 * SHORT).expect("there is room again");
        assert_eq!(free(), 2 * SHORT);
        drop(other);
        assert_eq!(free(), all);
        assert!(matches!(room.take(1 << 40), Err(ApiError::NoRoom)));
    }

    #[test]
    fn a_deadline_moves_by_what_came_and_no_further_than_at_the_beginning() {
        let (now, time) = (Instant::now(), Duration::from_secs(30));
        let soon = now + Duration::from_secs(1);
        assert_eq!(later(soon, BYTES_PER_SECOND, time), soon + Duration::from_secs(1));
        assert_eq!(later(soon, 0, time), soon);
        let most = later(soon, 100 << 20, time);
        assert!(most >= now + time && most <= Instant::now() + time);
    }
}
