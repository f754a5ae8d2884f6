//! How many rollouts a text prediction is worth: fitted to the incoming labels, so that text earns its weight.

use crate::belief::{BetaCounts, LABEL_MEMORY};
use crate::error::Result;
use crate::state::{StateMap, StateReader};

/// Evenly spaced in the logarithm; literals, because `powf` may differ between platforms.
const GRID: [f64; 12] = [
    0.5,
    0.777_203_140_885_459_7,
    1.208_089_444_404_447_4,
    1.877_861_821_323_412_6,
    2.918_960_211_362_892_7,
    4.537_250_088_781_85,
    7.052_730_039_968_168,
    10.962_807_877_760_989,
    17.040_657_431_039_403,
    26.488_104_956_313_95,
    41.173_276_736_301_81,
    64.0,
];
const LABELS_BEFORE_LEARNING: u64 = 32;

/// Discounted log-likelihood of the labels under each concentration of a grid; the configured value is the grid's first.
#[derive(Debug, Clone)]
pub(crate) struct Concentration {
    grid: Vec<f64>,
    log_likelihoods: Vec<f64>,
    labels: u64,
    learn: bool,
}

impl Concentration {
    pub(crate) fn new(configured: f64, learn: bool) -> Self {
        let grid: Vec<f64> = std::iter::once(configured).chain(GRID).collect();
        Self { log_likelihoods: vec![0.0; grid.len()], grid, labels: 0, learn }
    }

    /// The most likely concentration; the configured one at first, and where it is as likely as the best.
    pub(crate) fn value(&self) -> f64 {
        if !self.learn || self.labels < LABELS_BEFORE_LEARNING {
            return self.grid[0];
        }
        let better = |best: usize, other: usize| {
            if self.log_likelihoods[other] > self.log_likelihoods[best] { other } else { best }
        };
        self.grid[(1..self.grid.len()).fold(0, better)]
    }

    /// Takes in `successes` of `rollouts` of a prompt with this prior mean and this history before them.
    pub(crate) fn observe(&mut self, prior_mean: f64, history: BetaCounts, successes: u32, rollouts: u32) {
        self.labels += 1;
        if !self.learn {
            return;
        }
        for (concentration, total) in self.grid.iter().zip(&mut self.log_likelihoods) {
            let counts =
                BetaCounts { alpha: concentration * prior_mean + history.alpha, beta: concentration * (1.0 - prior_mean) + history.beta };
            *total = LABEL_MEMORY * *total + log_beta_binomial(counts, successes, rollouts);
        }
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert("concentration.configured".into(), self.grid[0].into());
        state.insert("concentration.log_likelihoods".into(), self.log_likelihoods.clone().into());
        state.insert("concentration.labels".into(), self.labels.into());
    }

    /// Restores what was learned, unless another value is configured now: then learning starts anew.
    pub(crate) fn restore(&mut self, state: &mut StateReader) -> Result<()> {
        let configured: f64 = state.take("concentration.configured")?;
        let log_likelihoods = state.array("concentration.log_likelihoods", self.grid.len())?;
        let labels = state.take("concentration.labels")?;
        if configured.to_bits() == self.grid[0].to_bits() {
            (self.log_likelihoods, self.labels) = (log_likelihoods, labels);
        }
        Ok(())
    }
}

/// Log-likelihood of one sequence of `rollouts` with `successes` under a Beta prior (the binomial coefficient is the same for all priors).
fn log_beta_binomial(counts: BetaCounts, successes: u32, rollouts: u32) -> f64 {
    let rising = |start: f64, steps: u32| (0..steps).map(|step| (start + f64::from(step)).ln()).sum::<f64>();
    rising(counts.alpha, successes) + rising(counts.beta, rollouts - successes) - rising(counts.alpha + counts.beta, rollouts)
}
