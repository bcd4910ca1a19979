//! The data path from client to disk and back: a real storage node behind real HTTP, over a fabric.
//!
//! `PENSTOCK_TEST_FABRIC` chooses the fabric; without it this is the loopback fabric, a fake inside this process. What needs
//! its faults (`faults`, `slices::faults`), or several devices (`rails`, `nodes`), runs on the loopback fabric always.

// Everything here is test code; clippy.toml allows these only inside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod gateway;
mod gpu;
mod hostile;
mod keys;
mod matrix;
mod model;
mod nodes;
mod policy;
mod rails;
mod raw;
mod setup;
mod slices;
