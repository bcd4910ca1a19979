//! Logs go to stderr: text for people, JSON for clusters.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// Installs the subscriber. `RUST_LOG` filters (default `info`). A second call does nothing, so tests may call it freely.
pub(crate) fn init(format: LogFormat) {
    // s3s logs every refused request as an error; the storage node logs what is its own fault itself.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,s3s=off"));
    let registry = tracing_subscriber::registry().with(filter);
    // An error here only says that a subscriber is already installed.
    let _already_installed = match format {
        LogFormat::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr))
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
}
