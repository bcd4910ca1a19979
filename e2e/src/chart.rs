//! The chart as a user installs it.

use crate::command::{root, run};
use anyhow::Result;

/// Release name and namespace of the installation that all tests share.
pub const RELEASE: &str = "penstock";
/// Its namespace.
pub const NAMESPACE: &str = "penstock-system";

/// Installs or upgrades the chart with the test cluster's values and waits until it runs. `more` goes to helm.
///
/// # Errors
/// When helm fails; the message holds what it printed.
pub async fn install(more: &[&str]) -> Result<String> {
    run(&root().join("e2e/install-chart").to_string_lossy(), more).await
}
