//! Random sequences of steps, from a seed that is printed and can be given.

use crate::{crash::seed, rounds};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::fmt;

/// Plays so many sequences in the short form of the tests, and what is left of one that fails when no step can be spared.
pub fn play<S: Clone + fmt::Debug>(short: u32, step: impl Strategy<Value = S>, play: impl AsyncFn(&[S])) {
    let seed = seed();
    println!("PENSTOCK_SEED={seed}");
    let config = Config {
        cases: rounds(short, 2000),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runner.run(&vec(step, 1..40), |steps| {
        runtime.block_on(play(&steps));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("PENSTOCK_SEED={seed}: {error}");
    }
}
