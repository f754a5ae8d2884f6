//! Snapshots of a sampler for Python.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use super::lock::locked;
use super::{Sampler, state_error};
use crate::error::{Error, Result};
use crate::sampler::{LoadReport, Sampler as CoreSampler};
use crate::snapshot::{Array, Image, Saved, Slots};

/// An array that travels beside the state: element type as safetensors names it, shape, bytes.
type Bytes<'py> = (String, Vec<usize>, Bound<'py, PyArray1<u8>>);
type ReadBytes<'py> = (String, Vec<usize>, PyReadonlyArray1<'py, u8>);

/// Two files that are overwritten in turn with what a sampler knows.
#[pyclass(frozen, module = "depo._core")]
pub(super) struct SnapshotSlots {
    slots: Mutex<Slots>,
    image: Mutex<Image>,
}

/// Damage becomes `depo.types.errors.StateError`, anything else `OSError`.
fn mapped<T>(py: Python<'_>, result: io::Result<T>) -> PyResult<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => state_error(py, &error),
        _ => error.into(),
    })
}

#[pymethods]
impl SnapshotSlots {
    #[new]
    fn new(py: Python<'_>, directory: PathBuf) -> PyResult<Self> {
        let slots = mapped(py, py.detach(|| Slots::open(directory)))?;
        Ok(Self { slots: Mutex::new(slots), image: Mutex::default() })
    }

    /// Copy the state of a sampler into memory that is kept.
    fn capture(&self, py: Python<'_>, sampler: &Sampler) -> PyResult<()> {
        sampler.with_core(py, |core| {
            locked(&self.image).capture(core);
            Ok(())
        })
    }

    /// Add named texts and arrays to the copy.
    fn attach(
        &self,
        texts: BTreeMap<String, String>,
        arrays: BTreeMap<String, ReadBytes<'_>>,
    ) -> PyResult<()> {
        let array = |(name, (dtype, shape, bytes)): (String, ReadBytes<'_>)| {
            Ok(Array { name, dtype, shape, bytes: bytes.as_slice()?.to_vec() })
        };
        let arrays = arrays.into_iter().map(array).collect::<PyResult<Vec<Array>>>()?;
        locked(&self.image).attach(texts, arrays);
        Ok(())
    }

    /// Write the copy over the older file; returns the number of the snapshot.
    fn write(&self, py: Python<'_>) -> PyResult<u64> {
        mapped(py, py.detach(|| locked(&self.slots).write(&locked(&self.image))))
    }

    /// Read the newest whole snapshot, for this sampler.
    fn read(&self, py: Python<'_>, sampler: &Sampler) -> PyResult<Option<SavedState>> {
        let pool = sampler.with_core(py, |core| Ok(core.pool().restarted()))?;
        let saved = mapped(py, py.detach(|| locked(&self.slots).read(Some(&pool))))?;
        Ok(saved.map(|saved| SavedState {
            generation: saved.generation,
            saved: Mutex::new(Some(saved)),
        }))
    }
}

/// A snapshot that was read: a state for `Sampler.load_state_dict`, once, and what travelled beside
/// it.
#[pyclass(frozen, module = "depo._core")]
pub(super) struct SavedState {
    #[pyo3(get)]
    generation: u64,
    saved: Mutex<Option<Saved>>,
}

impl SavedState {
    /// Restores a sampler and is empty then.
    pub(super) fn load(&self, core: &mut CoreSampler, strict: bool) -> Result<LoadReport> {
        let saved = locked(&self.saved).take();
        saved
            .ok_or_else(|| Error::StateMissing {
                name: "a snapshot that was not loaded before".to_owned(),
            })?
            .load(core, strict)
    }
}

#[pymethods]
impl SavedState {
    /// Named texts and arrays, which are taken out.
    fn detach<'py>(
        &self,
        py: Python<'py>,
    ) -> (BTreeMap<String, String>, BTreeMap<String, Bytes<'py>>) {
        let taken = |saved: &mut Saved| {
            (std::mem::take(&mut saved.texts), std::mem::take(&mut saved.arrays))
        };
        let (texts, arrays) = locked(&self.saved).as_mut().map(taken).unwrap_or_default();
        let array =
            |Array { name, dtype, shape, bytes }| (name, (dtype, shape, bytes.into_pyarray(py)));
        (texts, arrays.into_iter().map(array).collect())
    }
}
