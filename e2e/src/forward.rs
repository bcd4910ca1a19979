//! Ports of this machine that lead into the cluster.

use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

/// A port of this machine that leads to a Service while it lives.
pub struct Forward {
    child: Child,
    /// On the loopback address.
    pub port: String,
    /// kubectl goes on printing, and dies when nobody could read it.
    _printed: BufReader<ChildStdout>,
}

impl Forward {
    /// To `port` of a Service.
    ///
    /// # Errors
    /// When kubectl cannot be started, or does not forward.
    pub fn to(ns: &str, service: &str, port: u16) -> Result<Self> {
        let mut child = Command::new("kubectl")
            .args([
                "-n",
                ns,
                "port-forward",
                &format!("service/{service}"),
                &format!(":{port}"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl port-forward")?;
        let out = child.stdout.take().context("kubectl without an output")?;
        let mut line = String::new();
        // "Forwarding from 127.0.0.1:41435 -> 9000"
        let mut printed = BufReader::new(out);
        printed.read_line(&mut line)?;
        let port = line.split([':', ' ']).nth(3).map(str::to_owned);
        let port = port.with_context(|| format!("kubectl port-forward said {line:?}"))?;
        Ok(Self {
            child,
            port,
            _printed: printed,
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
