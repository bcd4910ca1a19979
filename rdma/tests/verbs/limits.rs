//! Limits of locked memory. Tests run as root, who has none; so this program runs itself again as somebody else.

use crate::world::{open, options};
use penstock_rdma::{
    fabric::{Error, Pages, Pool, Purpose},
    verbs::preflight,
};
use std::process::Command;

const NOBODY: u32 = 65534;
const ACTS: &str = "PENSTOCK_TEST_AS_NOBODY";

/// Runs one test of this program as nobody, who may lock `kib`.
fn as_nobody(test: &str, kib: u32) {
    let done = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -l {kib} && exec /usr/bin/setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\" \"$@\""
        ))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ACTS, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && output.contains("1 passed"),
        "as nobody: {output}"
    );
}

fn is_nobody() -> bool {
    std::env::var_os(ACTS).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_locked_memory_is_told_as_such() {
    if !is_nobody() {
        return as_nobody("limits::a_limit_of_locked_memory_is_told_as_such", 8 << 10);
    }
    let device = open(&options());
    let small = device
        .register(Pages::new(1 << 20).unwrap(), Purpose::Staging)
        .unwrap();
    let pages = Pages::new(16 << 20).unwrap();
    let error = device.register(pages, Purpose::Windows).unwrap_err();
    assert!(
        matches!(error, Error::Memlock { bytes } if bytes == 16 << 20),
        "{error}"
    );
    assert_eq!(device.usage().regions, 1);
    // A pool goes on with what it has.
    let pool = Pool::new(device.clone(), Purpose::Staging, 1 << 20, 64 << 20);
    let mut taken = Vec::new();
    let error = loop {
        match pool.take().await {
            Ok(chunk) => taken.push(chunk),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Memlock { .. }), "{error}");
    assert!((3..8).contains(&taken.len()), "{}", taken.len());
    taken.pop();
    taken.push(pool.take().await.unwrap());
    drop((small, taken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_says_that_the_limit_is_too_low() {
    if !is_nobody() {
        return as_nobody("limits::a_preflight_says_that_the_limit_is_too_low", 8 << 10);
    }
    let report = preflight::run(&options()).await;
    assert_eq!(report.reason(), Some("MemlockTooLow"));
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.subject == "locked memory")
        .unwrap();
    assert!(!finding.good && finding.text.contains("8192 KiB"), "{finding:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_lock_enough_need_not_be_root() {
    if !is_nobody() {
        return as_nobody("limits::who_may_lock_enough_need_not_be_root", 128 << 10);
    }
    assert_eq!(preflight::run(&options()).await.reason(), None);
}
