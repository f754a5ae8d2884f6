//! Parameters fitted to the incoming labels: a posterior over a grid, whose likelihoods fade, so
//! that parameters follow the policy.

#![allow(clippy::inline_always, reason = "the closure's loop becomes vector instructions")]

use crate::error::{Error, Result};
use crate::state::{StateMap, StateReader};
use crate::vectors::wide;
use depo_structures::portable::exp;

const LABELS_BEFORE_LEARNING: u64 = 32;

/// Likelihoods divided by the highest.
fn masses(log_likelihoods: &[f64], highest: f64) -> Vec<f64> {
    wide(
        #[inline(always)]
        || {
            let mut masses = log_likelihoods.to_vec();
            for mass in &mut masses {
                *mass = exp(*mass - highest);
            }
            masses
        },
    )
}

/// Discounted log-likelihood of the labels under each setting of `N` parameters; the configured
/// setting comes first.
#[derive(Debug, Clone)]
pub(crate) struct Fit<const N: usize> {
    name: &'static str,
    settings: Vec<[f64; N]>,
    log_likelihoods: Vec<f64>,
    labels: u64,
    /// Share of its weight that a label keeps when the next one arrives.
    memory: f64,
    learn: bool,
    /// What is used now: the configured setting at first, later the posterior mean, which is
    /// steadier than the best.
    value: [f64; N],
}

impl<const N: usize> Fit<N> {
    /// Nothing is learned yet. `memory`: the share of its weight that a label keeps when the next
    /// one arrives.
    pub(crate) fn new(
        name: &'static str,
        configured: [f64; N],
        grid: impl Iterator<Item = [f64; N]>,
        memory: f64,
        learn: bool,
    ) -> Self {
        let settings: Vec<[f64; N]> = std::iter::once(configured).chain(grid).collect();
        Self {
            name,
            log_likelihoods: vec![0.0; settings.len()],
            settings,
            labels: 0,
            memory,
            learn,
            value: configured,
        }
    }

    pub(crate) fn value(&self) -> [f64; N] {
        self.value
    }

    /// Log-likelihoods of one label under each setting, to be observed; empty if nothing is to be
    /// learned.
    pub(crate) fn likelihoods(
        &self,
        of_settings: impl FnOnce(&[[f64; N]]) -> Vec<f64>,
    ) -> Vec<f64> {
        if self.learn { of_settings(&self.settings) } else { Vec::new() }
    }

    /// Takes in one label by the values that `likelihoods` returned for it.
    pub(crate) fn observe(&mut self, likelihoods: Vec<f64>) {
        self.labels += u64::from(self.learn);
        for (total, likelihood) in self.log_likelihoods.iter_mut().zip(likelihoods) {
            *total = self.memory * *total + likelihood;
        }
        self.value = self.mean();
    }

    fn mean(&self) -> [f64; N] {
        if !self.learn || self.labels < LABELS_BEFORE_LEARNING {
            return self.settings[0];
        }
        let highest = self.log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut total, mut sums) = (0.0, [0.0; N]);
        for (setting, mass) in self.settings.iter().zip(masses(&self.log_likelihoods, highest)) {
            total += mass;
            sums.iter_mut().zip(setting).for_each(|(sum, value)| *sum += mass * value);
        }
        sums.map(|sum| sum / total)
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert(format!("{}.configured", self.name), self.settings[0].to_vec().into());
        state.insert(format!("{}.log_likelihoods", self.name), self.log_likelihoods.clone().into());
        state.insert(format!("{}.labels", self.name), self.labels.into());
    }

    /// Restores what was learned, unless another value is configured now: then learning starts
    /// anew.
    pub(crate) fn restore(&mut self, state: &mut StateReader) -> Result<()> {
        let configured: Vec<f64> = state.array(&format!("{}.configured", self.name), N)?;
        let name = format!("{}.log_likelihoods", self.name);
        let log_likelihoods: Vec<f64> = state.array(&name, self.settings.len())?;
        if let Some(other) = log_likelihoods.iter().find(|number| !number.is_finite()) {
            return Err(Error::state_entry(&name, other, "finite numbers"));
        }
        let labels = state.take(&format!("{}.labels", self.name))?;
        if configured
            .iter()
            .zip(&self.settings[0])
            .all(|(saved, own)| saved.to_bits() == own.to_bits())
        {
            (self.log_likelihoods, self.labels) = (log_likelihoods, labels);
            self.value = self.mean();
        }
        Ok(())
    }
}
