//! A double of NVML, for tests on machines without GPUs: what a file says, in the format of `gpus` of `penstock-csi inventory -o json`.
//! The file may change, as GPUs do.

use crate::devices::source::{GpuSource, Gpus, SourceError};
use std::{fs, io, path::PathBuf};

/// GPUs that a file tells of.
pub struct RecordedNvml {
    file: PathBuf,
}

impl RecordedNvml {
    /// Of this file.
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }
}

impl GpuSource for RecordedNvml {
    fn gpus(&self) -> Result<Gpus, SourceError> {
        let failed = |source: io::Error| SourceError::Recorded {
            file: self.file.clone(),
            source,
        };
        match fs::read(&self.file) {
            Ok(text) => {
                let gpus = serde_json::from_slice(&text).map_err(io::Error::from);
                gpus.map(Gpus::Found).map_err(failed)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Gpus::None(format!("there is no {}", self.file.display())))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::recorded::gpu;

    #[test]
    fn gpus_are_those_of_the_file_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gpus.json");
        let source = RecordedNvml::new(file.clone());
        assert!(matches!(source.gpus(), Ok(Gpus::None(why)) if why.contains("gpus.json")));
        fs::write(&file, serde_json::to_vec(&[gpu()]).unwrap()).unwrap();
        assert_eq!(source.gpus().unwrap(), Gpus::Found(vec![gpu()]));
        fs::write(&file, "[{").unwrap();
        assert!(matches!(source.gpus(), Err(SourceError::Recorded { .. })));
    }
}
