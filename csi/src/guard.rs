//! One operation per volume at a time.
//!
//! The CSI specification, "Error Scheme", on `ABORTED`: *"Indicates that there is already an operation pending for the
//! specified volume. In general the Cluster Orchestrator (CO) is responsible for ensuring that there is no more than one call
//! "in-flight" per volume at a given time. However, in some circumstances, the CO MAY lose state (for example when the CO
//! crashes and restarts), and MAY issue multiple calls simultaneously for the same volume. The Plugin, SHOULD handle this as
//! gracefully as possible, and MAY return this error code to reject secondary calls."* The caller then *"SHOULD ensure that
//! there are no other calls pending for the specified volume, and then retry with exponential back off."*

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};
use tonic::Status;

/// The volumes that an operation is under way on. Clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    volumes: Arc<Mutex<HashSet<String>>>,
}

/// Keeps other operations away from a volume until it is dropped, which a cancelled call does as well.
#[derive(Debug)]
#[must_use = "the volume is guarded only as long as this lives"]
pub struct Guard {
    volume: String,
    all: InFlight,
}

impl InFlight {
    /// Begins an operation on a volume (its id, or its name where there is no id yet).
    ///
    /// # Errors
    /// `ABORTED` while another operation on it is under way.
    pub fn begin(&self, volume: &str) -> Result<Guard, Status> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if !volumes.insert(volume.to_owned()) {
            return Err(Status::aborted(format!(
                "another operation on volume {volume:?} is under way; wait for it and try again"
            )));
        }
        Ok(Guard {
            volume: volume.to_owned(),
            all: self.clone(),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut volumes = self.all.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn the_second_operation_on_a_volume_is_aborted_until_the_first_ends() {
        let all = InFlight::default();
        let first = all.begin("a").unwrap();
        let refused = all.clone().begin("a").unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
        assert!(refused.message().contains("\"a\""), "{refused}");
        let _other = all.begin("b").unwrap();
        drop(first);
        let _again = all.begin("a").unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_operation_frees_its_volume() {
        let all = InFlight::default();
        let (begun, seen) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let all = all.clone();
            async move {
                let _guard = all.begin("a").unwrap();
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            }
        });
        seen.await.unwrap();
        assert!(all.begin("a").is_err());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let _free = all.begin("a").unwrap();
    }
}
