//! Takes in the body of a request: no more than is allowed, and not for longer.

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;

use super::App;
use super::error::ApiError;
use super::stage::Stage;

/// Bytes for which a body gets a second more. A client that sends less in a second is stopped in the end.
const BYTES_PER_SECOND: usize = 16 << 10;
/// Room that is made on a client's word that as much will come.
const TRUSTED: usize = 1 << 20;

/// The whole body.
///
/// # Errors
/// [`ApiError::TooLarge`] by its stated length before a byte is read, else as soon as it is; [`ApiError::BodyTimeout`];
/// [`ApiError::Draining`] if the rest is not worth waiting for; [`ApiError::Body`] if it breaks off.
pub async fn read(app: &App, body: Body) -> Result<Vec<u8>, ApiError> {
    let limit = app.limits.max_body;
    let stated = body.size_hint().lower();
    if stated > limit as u64 {
        return Err(ApiError::TooLarge { limit });
    }
    let begin = Instant::now();
    let mut bytes = Vec::with_capacity((stated as usize).min(TRUSTED));
    let mut body = body;
    loop {
        let deadline = app.limits.body.map(|time| begin + time + earned(bytes.len()));
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = super::until(deadline) => return Err(ApiError::BodyTimeout),
            () = app.progress.reached(Stage::Draining) => return Err(ApiError::Draining),
        };
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| ApiError::Body(crate::error::chain(&error)))?;
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ApiError::TooLarge { limit });
        }
        bytes.extend_from_slice(&data);
    }
}

/// The time that the bytes which came have bought.
fn earned(bytes: usize) -> Duration {
    Duration::from_secs((bytes / BYTES_PER_SECOND) as u64)
}
