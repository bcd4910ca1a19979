//! The rules of `docs/protocol.md` in a model of both ends and of what can go wrong between them: every order of events is tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;
mod proof;
