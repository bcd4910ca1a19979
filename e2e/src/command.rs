//! Programs that a user types: kubectl, helm, python.

use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program in the repository's root and returns its stdout.
///
/// # Errors
/// When it cannot be started or fails; the message holds the command and its stderr.
pub async fn run(program: &str, args: &[&str]) -> Result<String> {
    run_with_input(program, args, "").await
}

/// [`run`] with `input` on its stdin.
///
/// # Errors
/// As [`run`].
pub async fn run_with_input(program: &str, args: &[&str], input: &str) -> Result<String> {
    let shown = format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes it early; its exit status tells the outcome.
        let _closed_early = stdin.write_all(input.as_bytes()).await;
    }
    let output = child
        .wait_with_output()
        .await
        .with_context(|| format!("`{shown}` was lost"))?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "`{shown}` failed ({}):\n{stderr}{stdout}",
        output.status
    );
    Ok(stdout.into_owned())
}

/// `kubectl ARGS`.
///
/// # Errors
/// As [`run`].
pub async fn kubectl(args: &[&str]) -> Result<String> {
    run("kubectl", args).await
}

/// `helm ARGS`.
///
/// # Errors
/// As [`run`].
pub async fn helm(args: &[&str]) -> Result<String> {
    run("helm", args).await
}
