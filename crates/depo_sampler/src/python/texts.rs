//! Columns of texts that Arrow or `NumPy` holds: read where they lie.

use std::collections::BTreeMap;
use std::hint::black_box;

use numpy::prelude::*;
use numpy::{Element, IntoPyArray, PyArray1, PyReadonlyArray1, PyUntypedArray};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::convert::{integers, unfit};
use super::detached;
use crate::error::Error;
use crate::rng::content_id;
use crate::texts::{Answers, Offsets, Texts, prompt_ids};

const CACHE_LINE: usize = 64;

type Ids<'py> = PyResult<Bound<'py, PyArray1<u64>>>;

enum PyOffsets {
    Narrow(Py<PyArray1<i32>>),
    Wide(Py<PyArray1<i64>>),
}

struct Chunk {
    utf8: Py<PyArray1<u8>>,
    offsets: PyOffsets,
}

/// A chunk that Rust code does not write to meanwhile.
struct Borrowed<'py> {
    utf8: PyReadonlyArray1<'py, u8>,
    offsets: BorrowedOffsets<'py>,
}

enum BorrowedOffsets<'py> {
    Narrow(PyReadonlyArray1<'py, i32>),
    Wide(PyReadonlyArray1<'py, i64>),
}

impl Chunk {
    fn new(utf8: &Bound<'_, PyAny>, offsets: &Bound<'_, PyAny>) -> PyResult<Self> {
        let utf8 = buffer("utf8", utf8, "uint8")?;
        let offsets = match buffer("offsets", offsets, "int32") {
            Ok(narrow) => PyOffsets::Narrow(narrow),
            Err(_) => PyOffsets::Wide(buffer("offsets", offsets, "int32 or int64")?),
        };
        Ok(Self { utf8, offsets })
    }

    fn borrow<'py>(&self, py: Python<'py>) -> Borrowed<'py> {
        let offsets = match &self.offsets {
            PyOffsets::Narrow(offsets) => BorrowedOffsets::Narrow(offsets.bind(py).readonly()),
            PyOffsets::Wide(offsets) => BorrowedOffsets::Wide(offsets.bind(py).readonly()),
        };
        Borrowed { utf8: self.utf8.bind(py).readonly(), offsets }
    }
}

impl Borrowed<'_> {
    fn texts(&self) -> PyResult<Texts<'_>> {
        let offsets = match &self.offsets {
            BorrowedOffsets::Narrow(offsets) => Offsets::Narrow(offsets.as_slice()?),
            BorrowedOffsets::Wide(offsets) => Offsets::Wide(offsets.as_slice()?),
        };
        Ok(Texts::new(self.utf8.as_slice()?, offsets))
    }
}

/// The array itself, of one dimension, with elements `T` that lie in a row.
fn buffer<T: Element>(
    name: &str,
    value: &Bound<'_, PyAny>,
    dtype: &str,
) -> PyResult<Py<PyArray1<T>>> {
    match value.cast::<PyArray1<T>>() {
        Ok(array) if array.is_c_contiguous() && array.is_aligned() => Ok(array.clone().unbind()),
        _ => {
            let got = match value.cast::<PyUntypedArray>() {
                Ok(array) => format!(
                    "a {} array of shape {:?} and strides {:?}",
                    array.dtype(),
                    array.shape(),
                    array.strides()
                ),
                Err(_) => value.get_type().to_string(),
            };
            Err(unfit(name, &got, &format!("a contiguous one-dimensional {dtype} array")))
        }
    }
}

/// Texts in buffers that stay where they are.
#[pyclass(frozen, module = "depo._core")]
pub(super) struct TextColumn {
    chunks: Vec<Chunk>,
    /// Row of each chunk's first text, and the number of all texts.
    starts: Vec<usize>,
}

impl TextColumn {
    /// Chunk and row within it of each of some rows.
    fn places(&self, rows: &[i64]) -> PyResult<Vec<(usize, usize)>> {
        let len = self.__len__();
        let place = |(position, &index): (usize, &i64)| {
            let outside = || {
                PyIndexError::new_err(
                    Error::Index { argument: "rows", position, index, len }.to_string(),
                )
            };
            let row = usize::try_from(index).ok().filter(|&row| row < len).ok_or_else(outside)?;
            let chunk = self.starts.partition_point(|&start| start <= row) - 1;
            Ok((chunk, row - self.starts[chunk]))
        };
        rows.iter().enumerate().map(place).collect()
    }

    /// All chunks.
    fn borrow<'py>(&self, py: Python<'py>) -> Vec<Borrowed<'py>> {
        self.chunks.iter().map(|chunk| chunk.borrow(py)).collect()
    }
}

fn texts<'a>(chunks: &'a [Borrowed<'_>]) -> PyResult<Vec<Texts<'a>>> {
    chunks.iter().map(Borrowed::texts).collect()
}

#[pymethods]
impl TextColumn {
    #[new]
    fn new(py: Python<'_>, chunks: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>) -> PyResult<Self> {
        let chunks = chunks
            .into_iter()
            .map(|(utf8, offsets)| Chunk::new(&utf8, &offsets))
            .collect::<PyResult<Vec<Chunk>>>()?;
        let mut column = Self { chunks, starts: vec![0] };
        let borrowed = column.borrow(py);
        for chunk in texts(&borrowed)? {
            let first_row = column.starts[column.starts.len() - 1];
            detached(py, || chunk.check(first_row))?;
            column.starts.push(first_row + chunk.len());
        }
        Ok(column)
    }

    fn __len__(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// The texts of some rows.
    fn texts<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let rows: Vec<i64> = integers("rows", rows)?;
        let places = self.places(&rows)?;
        let mut chunks: BTreeMap<usize, Borrowed<'_>> = BTreeMap::new();
        for &(chunk, _) in &places {
            chunks.entry(chunk).or_insert_with(|| self.chunks[chunk].borrow(py));
        }
        let bytes = places.iter().zip(&rows).map(|(&(chunk, row), index)| {
            let changed = || {
                unfit(
                    "offsets",
                    &format!("other offsets at row {index} than at first"),
                    "buffers that are not written to",
                )
            };
            chunks[&chunk].texts()?.bytes(row).ok_or_else(changed)
        });
        let bytes = bytes.collect::<PyResult<Vec<&[u8]>>>()?;
        // One cache line after another is fetched while the next are requested; a string at a time
        // would wait for each of its own.
        black_box(
            bytes
                .iter()
                .flat_map(|text| text.iter().step_by(CACHE_LINE))
                .fold(0, |sum, byte| sum ^ byte),
        );
        let strings = bytes
            .into_iter()
            .map(|text| PyString::from_bytes(py, text))
            .collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, strings)
    }

    /// XXH3-64 of each text, none of which may be empty.
    fn content_ids<'py>(&self, py: Python<'py>) -> Ids<'py> {
        let borrowed = self.borrow(py);
        let chunks = texts(&borrowed)?;
        let ids = detached(py, || {
            let bytes = || chunks.iter().flat_map(Texts::iter);
            match bytes().position(<[u8]>::is_empty) {
                Some(row) => Err(Error::argument(
                    "ids",
                    format!("an empty id at row {row}"),
                    "ids of at least one character",
                )),
                None => Ok(bytes().map(content_id).collect::<Vec<u64>>()),
            }
        })?;
        Ok(ids.into_pyarray(py))
    }

    /// Ids of the prompts that have these texts.
    #[pyo3(signature = (answers, answers_are_json, sources, source_names))]
    fn prompt_ids<'py>(
        &self,
        py: Python<'py>,
        answers: Option<&Self>,
        answers_are_json: bool,
        sources: &Bound<'py, PyArray1<u32>>,
        source_names: Vec<String>,
    ) -> Ids<'py> {
        let (borrowed, borrowed_answers) =
            (self.borrow(py), answers.map(|answers| answers.borrow(py)));
        let (chunks, answers) =
            (texts(&borrowed)?, borrowed_answers.as_deref().map(texts).transpose()?);
        let sources = sources.readonly();
        let sources = sources.as_slice()?;
        let ids = detached(py, move || {
            let answers =
                answers.as_ref().map(|texts| Answers { texts, are_json: answers_are_json });
            prompt_ids(&chunks, answers, sources, &source_names)
        })?;
        Ok(ids.into_pyarray(py))
    }
}
