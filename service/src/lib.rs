//! What every Penstock process has: structured logs, an admin endpoint that tells the truth, and an orderly end.
//!
//! ```text
//! main ── Args::init_logging ── shutdown::on_signal ──┐ token
//!   │                                                 ▼
//!   ├── serves its own protocol until the token fires, then drains
//!   └── admin::serve  /metrics  /livez  /readyz   (readyz says "draining" once the token fired)
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod health;
pub mod limits;
pub mod logging;
pub mod shutdown;

pub use admin::Admin;
pub use health::{Flag, Health};
pub use logging::LogFormat;
pub use tokio_util::sync::CancellationToken;

use std::{net::SocketAddr, process::ExitCode};

/// Command-line options that all binaries share; flatten them into a binary's own `Args`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How log lines are written to stderr.
    #[arg(long, env = "PENSTOCK_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,

    /// Address that serves /metrics, /livez and /readyz over HTTP; without it they are not served.
    #[arg(long, env = "PENSTOCK_ADMIN_LISTEN", value_name = "ADDR", global = true)]
    pub admin_listen: Option<SocketAddr>,
}

impl Args {
    /// Installs the process-wide log subscriber. Call once, first thing in `main`.
    pub fn init_logging(&self) {
        logging::init(self.log_format);
    }
}

/// Turns the outcome of `main` into an exit code, with one line on stderr that carries the whole cause chain.
pub fn exit<E: std::error::Error>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line: `what: why: why`. A cause that its parent's message already holds is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the index")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = Outer(std::io::Error::other("disk\nis gone"));
        assert_eq!(chain(&error), "cannot open the index: disk is gone");
    }
}
