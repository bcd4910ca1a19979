//! The fabric over a real device: `make test SUITE=verbs` runs this program in a guest that has a soft-RoCE device. Where
//! there is no device every test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod death;
mod device;
mod limits;
mod rights;
mod throughput;
mod transfer;
mod world;
