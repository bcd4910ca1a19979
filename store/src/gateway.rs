//! The node gateway: S3 for clients on one node, passed on to a storage node as they signed it.
//!
//! ```text
//!  client ── HTTP ──▶ GatewayServer ─ forward ─ Relay ─┬─ socket on this host ─▶ descriptors ─ lent: read here, sent on
//!                                                      └─ network ─────────────▶ bytes       ─ passed: sent on
//! ```
//! It has no key and checks no signature: the storage node does, for each request, with the `Host`, path, query and headers that the
//! client signed. So it can do nothing that the client whose request it holds could not do. `docs/gateway.md` says what that
//! means and what not.

mod answer;
mod forward;
mod metrics;
mod request;
mod server;

pub use metrics::GatewayMetrics;
pub use server::{GatewayError, GatewayServer, Upstream};
