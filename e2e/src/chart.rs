//! The chart as a user installs it.

use crate::command::helm;
use anyhow::Result;

/// Release name and namespace of the installation that all tests share.
pub const RELEASE: &str = "penstock";
/// Its namespace.
pub const NAMESPACE: &str = "penstock-system";

/// Installs or upgrades the chart with the test cluster's values and waits until it runs.
///
/// # Errors
/// When helm fails; the message holds what it printed.
pub async fn install(more: &[&str]) -> Result<String> {
    let values = std::env::var("PENSTOCK_VALUES").unwrap_or_else(|_| "e2e/values.yaml".into());
    let mut args = vec![
        "upgrade",
        "--install",
        RELEASE,
        "charts/penstock",
        "--namespace",
        NAMESPACE,
    ];
    args.extend([
        "--create-namespace",
        "--values",
        &values,
        "--wait",
        "--timeout",
        "4m",
    ]);
    args.extend(more);
    helm(&args).await
}
