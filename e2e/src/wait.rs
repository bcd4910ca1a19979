//! Waiting for what must come true.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How a look turned out.
pub enum Wait<T> {
    /// It is true now.
    Done(T),
    /// Not yet, and how it stands.
    NotYet(String),
}

/// How long things may take on a small, shared machine: three minutes, or `PENSTOCK_TEST_PATIENCE` seconds, which the test runner
/// sets where nodes are emulated.
fn patience() -> Duration {
    let set = std::env::var("PENSTOCK_TEST_PATIENCE").ok();
    Duration::from_secs(set.and_then(|seconds| seconds.parse().ok()).unwrap_or(180))
}

/// Looks again and again until it is done, as long as patience lasts. An error of `look` ends the wait at once.
///
/// # Errors
/// When it did not come true; the message holds how it stood last.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<Wait<T>>) -> Result<T> {
    within(patience(), what, look).await
}

/// [`eventually`] with another deadline.
///
/// # Errors
/// When it did not come true in time.
pub async fn within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Wait<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look().await? {
            Wait::Done(value) => return Ok(value),
            Wait::NotYet(state) if start.elapsed() > patience => {
                bail!("{what}: not within {} s; last seen: {state}", patience.as_secs())
            }
            Wait::NotYet(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}
