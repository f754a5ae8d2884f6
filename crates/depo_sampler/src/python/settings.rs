//! The keyword arguments of `depo._core.Sampler` as settings.

use std::collections::BTreeMap;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{floats, unsigned};
use crate::error::Result;
use crate::settings::Settings;

/// The choices that are given by name; unknown names are refused without the interpreter.
pub(super) struct Names {
    rule: String,
    belief: String,
    explore_by: String,
    candidates_from: String,
}

impl Names {
    /// Settings with these choices.
    pub(super) fn chosen(self, settings: Settings) -> Result<Settings> {
        Ok(Settings {
            rule: self.rule.parse()?,
            belief: self.belief.parse()?,
            explore_by: self.explore_by.parse()?,
            candidates_from: self.candidates_from.parse()?,
            ..settings
        })
    }
}

/// Keyword arguments, each to be taken once.
struct Keywords<'py>(Bound<'py, PyDict>);

impl<'py> Keywords<'py> {
    fn take(&self, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let value = self.0.get_item(name)?;
        let value = value
            .ok_or_else(|| PyTypeError::new_err(format!("Sampler: argument {name} is missing")))?;
        self.0.del_item(name)?;
        Ok(value)
    }

    /// The value of an optional argument.
    fn take_or<T>(&self, name: &str, default: T) -> PyResult<T>
    where
        T: for<'a> FromPyObject<'a, 'py>,
    {
        if self.0.contains(name)? { self.value(name) } else { Ok(default) }
    }

    fn value<T>(&self, name: &str) -> PyResult<T>
    where
        T: for<'a> FromPyObject<'a, 'py>,
    {
        let value = self.take(name)?;
        value.extract::<T>().map_err(|_| {
            let expected = expected(std::any::type_name::<T>());
            PyTypeError::new_err(format!("{name}: got {value}, expected {expected}"))
        })
    }

    /// Refuses what no setting has taken.
    fn finish(self) -> PyResult<()> {
        match self.0.keys().iter().next() {
            Some(name) => Err(PyTypeError::new_err(format!("Sampler: unknown argument {name}"))),
            None => Ok(()),
        }
    }
}

/// A type in the words of Python.
fn expected(type_name: &str) -> &'static str {
    match type_name {
        "f64" => "a number",
        "u32" => "an integer of at least 0 and below 2^32",
        "bool" => "True or False",
        "(f64, f64)" => "two numbers",
        "alloc::string::String" => "a string",
        _ => "numbers by name",
    }
}

/// Reads settings, and the choices that they name.
pub(super) fn settings_from_py(
    py: Python<'_>,
    given: Option<&Bound<'_, PyDict>>,
) -> PyResult<(Settings, Names)> {
    let given = Keywords(given.map_or_else(|| Ok(PyDict::new(py)), PyDictMethods::copy)?);
    let names = Names {
        rule: given.value("rule")?,
        belief: given.value("belief")?,
        explore_by: given.take_or("explore_by", "uniform".to_owned())?,
        candidates_from: given.take_or("candidates_from", "epoch".to_owned())?,
    };
    let defaults = Settings::default();
    let settings = Settings {
        group_size: unsigned("group_size", &given.take("group_size")?)?,
        seed: unsigned("seed", &given.take("seed")?)?,
        rule_options: given.value::<BTreeMap<String, f64>>("rule_options")?,
        warmup_steps: unsigned("warmup_steps", &given.take("warmup_steps")?)?,
        window: given.value("window")?,
        candidates_per_draw: unsigned("candidates_per_draw", &given.take("candidates_per_draw")?)?,
        explore_share: given.value("explore_share")?,
        min_age: given.take_or("min_age", defaults.min_age)?,
        max_age: unsigned("max_age", &given.take("max_age")?)?,
        probe_rollouts: unsigned("probe_rollouts", &given.take("probe_rollouts")?)?,
        reprobe_share: given.value("reprobe_share")?,
        source_floors: floats::<1>("source_floors", &given.take("source_floors")?)?.0,
        scan_cap: unsigned("scan_cap", &given.take("scan_cap")?)?,
        use_history: given.value("use_history")?,
        belief_options: given.value::<BTreeMap<String, f64>>("belief_options")?,
        fit_belief: given.value("fit_belief")?,
        success_threshold: given.value("success_threshold")?,
        tolerance: given.value("tolerance")?,
        replay_capacity: unsigned("replay_capacity", &given.take("replay_capacity")?)?,
        max_target_weight: given.value("max_target_weight")?,
        ..defaults
    };
    given.finish()?;
    Ok((settings, names))
}
