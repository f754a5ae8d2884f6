//! From Python values to Rust values and back, with errors that name the argument.

use std::borrow::Cow;

use numpy::prelude::*;
use numpy::{Element, IntoPyArray, PyArrayDyn, PyReadonlyArrayDyn, PyUntypedArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyMapping, PyString};

use crate::error::{Error, Result};
use crate::state::{StateMap, StateValue};

pub(super) fn unfit(name: &str, got: &str, expected: &str) -> PyErr {
    PyValueError::new_err(format!("{name}: got {got}, expected {expected}"))
}

/// A whole number that fits `T`.
pub(super) fn unsigned<T: TryFrom<u64>>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<T> {
    let number = value.extract::<u64>().ok().and_then(|number| T::try_from(number).ok());
    let limit = 8 * size_of::<T>();
    number.ok_or_else(|| {
        unfit(name, &value.to_string(), &format!("an integer of at least 0 and below 2^{limit}"))
    })
}

/// The value as an array of `dimensions` dimensions whose kind is one of `kinds`; an empty list or
/// array is of every kind.
fn array<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    dimensions: usize,
    kinds: &str,
    expected: &str,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let expected = format!("a {dimensions}-dimensional array of {expected}");
    let array = value.py().import("numpy")?.call_method1("asarray", (value,));
    let array = array
        .map_err(|error| unfit(name, &error.to_string(), &expected))?
        .cast_into::<PyUntypedArray>()?;
    let fits = array.ndim() == dimensions
        && (array.is_empty() || kinds.contains(char::from(array.dtype().kind())));
    if fits {
        return Ok(array);
    }
    Err(unfit(name, &format!("a {} array of shape {:?}", array.dtype(), array.shape()), &expected))
}

/// The array with elements `T`, row by row: itself if it is so already.
fn in_rows<'py, T: Element>(
    array: &Bound<'py, PyUntypedArray>,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let (order, casting, keep_subclass, copy) = ("C", "unsafe", false, false);
    let cast = array
        .call_method1("astype", (T::get_dtype(array.py()), order, casting, keep_subclass, copy))?;
    Ok(cast.cast_into::<PyArrayDyn<T>>()?.readonly())
}

/// An array of so many dimensions whose elements are `T` and can be read where they lie, row by
/// row.
fn in_place<'a, 'py, T: Element>(
    value: &'a Bound<'py, PyAny>,
    dimensions: usize,
) -> Option<&'a Bound<'py, PyArrayDyn<T>>> {
    value.cast().ok().filter(|array: &&Bound<'py, PyArrayDyn<T>>| {
        array.ndim() == dimensions && array.is_c_contiguous() && array.is_aligned()
    })
}

/// Its elements as `T`, row by row.
fn elements<T: Element + Copy>(array: &Bound<'_, PyUntypedArray>) -> PyResult<Vec<T>> {
    Ok(in_rows(array)?.as_slice()?.to_vec())
}

/// Real numbers, row by row, not copied if they are float32 in rows already.
pub(super) fn borrowed_floats<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    dimensions: usize,
) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    // An array that is right already is spared the calls to NumPy, which cost as much as the
    // advantages of a small batch.
    if let Some(array) = in_place(value, dimensions) {
        return Ok(array.readonly());
    }
    in_rows(&array(name, value, dimensions, "fiub", "numbers")?)
}

/// Whole numbers of one dimension, not copied if they are int64 in a row already.
pub(super) fn borrowed_integers<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArrayDyn<'py, i64>> {
    if let Some(array) = in_place(value, 1) {
        return Ok(array.readonly());
    }
    Ok(integers::<i64>(name, value)?.into_pyarray(value.py()).to_dyn().readonly())
}

/// Real numbers, row by row, and the shape.
pub(super) fn floats<const D: usize>(
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<(Vec<f32>, [usize; D])> {
    let array = borrowed_floats(name, value, D)?;
    let mut shape = [0; D];
    shape.copy_from_slice(array.shape());
    Ok((array.as_slice()?.to_vec(), shape))
}

/// Whole numbers of one dimension that fit `T`.
pub(super) fn integers<T: TryFrom<i128> + Element + Copy>(
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<Vec<T>> {
    if let Some(array) = in_place::<T>(value, 1) {
        return Ok(array.readonly().as_slice()?.to_vec());
    }
    // A list goes around NumPy, which would make floats of integers on both sides of 2^63.
    if !value.hasattr("dtype")?
        && let Ok(numbers) = value.extract::<Vec<i128>>()
    {
        return fitting(name, numbers.into_iter());
    }
    let array = array(name, value, 1, "iu", "integers")?;
    if array.dtype().kind() == b'u' {
        return fitting(name, elements::<u64>(&array)?.into_iter().map(i128::from));
    }
    fitting(name, elements::<i64>(&array)?.into_iter().map(i128::from))
}

/// The numbers as `T`, which all must fit.
fn fitting<T: TryFrom<i128>>(name: &str, numbers: impl Iterator<Item = i128>) -> PyResult<Vec<T>> {
    let fit = |(position, number): (usize, i128)| {
        let misfit = |_| {
            unfit(
                name,
                &format!("{number} at position {position}"),
                "integers within the element type",
            )
        };
        T::try_from(number).map_err(misfit)
    };
    numbers.enumerate().map(fit).collect()
}

/// A saved state as a dict of scalars and arrays.
pub(super) fn state_to_py<'py>(py: Python<'py>, state: StateMap) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in state {
        match value {
            StateValue::Int(number) => dict.set_item(name, number)?,
            StateValue::Float(number) => dict.set_item(name, number)?,
            StateValue::Text(text) => dict.set_item(name, text)?,
            StateValue::U8(array) => dict.set_item(name, array.into_owned().into_pyarray(py))?,
            StateValue::U32(array) => dict.set_item(name, array.into_owned().into_pyarray(py))?,
            StateValue::U64(array) => dict.set_item(name, array.into_owned().into_pyarray(py))?,
            StateValue::F32(array) => dict.set_item(name, array.into_owned().into_pyarray(py))?,
            StateValue::F64(array) => dict.set_item(name, array.into_owned().into_pyarray(py))?,
        }
    }
    Ok(dict)
}

/// An entry of a saved state, as Python has it.
pub(super) type PyEntry<'py> = (String, Bound<'py, PyAny>);

/// The entries of a saved state.
pub(super) fn entries_from_py<'py>(state: &Bound<'py, PyAny>) -> PyResult<Vec<PyEntry<'py>>> {
    state.cast::<PyMapping>()?.items()?.try_iter()?.map(|item| item?.extract()).collect()
}

/// The inverse of `state_to_py`; arrays are lent. The inner error is an entry of a type that no
/// state has.
pub(super) fn state_from_py<'a>(entries: &'a [PyEntry<'_>]) -> PyResult<Result<StateMap<'a>>> {
    let mut state = StateMap::new();
    for (name, value) in entries {
        let Some(entry) = state_value(value)? else {
            let got = value.get_type().to_string();
            return Ok(Err(Error::state_entry(
                name,
                got,
                "a whole number, a float, a string or an array",
            )));
        };
        state.insert(name.clone(), entry);
    }
    Ok(Ok(state))
}

fn state_value<'a>(value: &'a Bound<'_, PyAny>) -> PyResult<Option<StateValue<'a>>> {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        return match (array.dtype().kind(), array.dtype().itemsize()) {
            (b'u', 1) => lent::<u8>(array).map(|array| Some(array.into())),
            (b'u', 4) => lent::<u32>(array).map(|array| Some(array.into())),
            (b'u', 8) => lent::<u64>(array).map(|array| Some(array.into())),
            (b'f', 4) => lent::<f32>(array).map(|array| Some(array.into())),
            (b'f', 8) => lent::<f64>(array).map(|array| Some(array.into())),
            _ => Ok(None),
        };
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Some(text.to_str()?.to_owned().into()));
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return Ok(Some(number.value().into()));
    }
    Ok(value.extract::<u64>().ok().map(StateValue::from))
}

/// The elements of an array of one dimension, not copied if they lie in a row. It must not
/// be written to while the state is read.
#[expect(unsafe_code, reason = "the state of a sampler is not written to while another loads it")]
fn lent<'a, T: Element + Copy>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<Cow<'a, [T]>> {
    match array.cast::<PyArrayDyn<T>>() {
        Ok(typed) if typed.is_c_contiguous() && typed.is_aligned() => {
            Ok(unsafe { typed.as_slice() }?.into())
        }
        _ => elements(array).map(Cow::Owned),
    }
}
