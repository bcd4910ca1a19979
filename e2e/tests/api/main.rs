//! What the real API server says to good and bad custom resources.

mod storage_cluster;
mod vector_index;

use penstock_e2e::{Context, Namespace, Result, command, ensure, object};
use serde_json::{Value, json};

/// Tries objects of this kind.
struct Tried(&'static str);

impl Tried {
    /// Applies a manifest as a dry run: validation happens, nothing is stored.
    async fn verdict(&self, ns: &Namespace, spec: Value) -> Result<()> {
        let manifest = json!({
            "apiVersion": object::PENSTOCK, "kind": self.0, "metadata": {"name": "tried"}, "spec": spec,
        });
        let text = manifest.to_string();
        let args = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-n",
            &ns.name,
            "-f",
            "-",
        ];
        command::run_with_input("kubectl", &args, &text).await.map(drop)
    }

    async fn accepted(&self, ns: &Namespace, spec: Value) -> Result<()> {
        self.verdict(ns, spec.clone())
            .await
            .with_context(|| format!("should be accepted: {spec}"))
    }

    /// The answer must name the field or the cause, so that a user knows what to change.
    async fn refused(&self, ns: &Namespace, spec: Value, because: &str) -> Result<()> {
        let Err(error) = self.verdict(ns, spec.clone()).await else {
            penstock_e2e::bail!("should be refused because of {because:?}: {spec}");
        };
        let text = format!("{error:#}");
        ensure!(
            text.contains(because),
            "refused {spec}, but the answer does not speak of {because:?}: {text}"
        );
        Ok(())
    }
}
