//! Selection policies: whom to look at, and what a belief says about admission.

use crate::belief::Forecast;
use crate::error::{Error, Result};

/// Where a candidate stands when places are given out; better standings come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Unlabelled for too long: drawn for certain.
    Reprobe,
    /// Admitted, because everyone is during warm-up.
    Warmup,
    /// Admitted by the policy.
    Admitted,
    /// Competes with the other candidates by score.
    Competing,
    /// Rejected by the policy.
    Rejected,
}

impl Standing {
    /// Every standing, by code.
    pub const ALL: [Self; 5] = [Self::Reprobe, Self::Warmup, Self::Admitted, Self::Competing, Self::Rejected];
}

/// A policy's opinion of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Admitted, competing or rejected.
    pub standing: Standing,
    /// Order within a standing, higher first.
    pub score: f32,
}

/// How far the batch in the making has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Prompts wanted.
    pub n: usize,
    /// Candidates admitted so far.
    pub admitted: usize,
    /// Candidates that will be judged next in any case (buffered ones and re-probes).
    pub waiting: usize,
    /// Candidates of this batch judged so far.
    pub judged: usize,
}

impl Progress {
    /// Candidates missing if every one is admitted.
    pub fn missing(&self) -> usize {
        self.n.saturating_sub(self.admitted + self.waiting)
    }
}

/// Decides from text prediction and belief who is admitted.
pub trait SelectionPolicy {
    /// Number of fresh candidates to look at next; 0 ends the search.
    fn fresh_candidates(&self, progress: &Progress) -> usize;

    /// Judges one candidate by its text prediction (NaN: none) and forecast.
    fn judge(&self, predicted_reward: f32, forecast: &Forecast) -> Judgement;

    /// Whether a prompt would be admitted outside of any batch; `threshold` is the running admission threshold.
    fn wants(&self, predicted_reward: f32, forecast: &Forecast, threshold: f64) -> bool;
}

/// Everyone, in epoch order.
#[derive(Debug, Clone, Copy)]
pub struct Uniform;

impl SelectionPolicy for Uniform {
    fn fresh_candidates(&self, progress: &Progress) -> usize {
        progress.missing()
    }

    fn judge(&self, _predicted_reward: f32, _forecast: &Forecast) -> Judgement {
        Judgement { standing: Standing::Admitted, score: 0.0 }
    }

    fn wants(&self, _predicted_reward: f32, _forecast: &Forecast, _threshold: f64) -> bool {
        true
    }
}

/// Predicted rewards within a window (DEPO, arXiv 2602.06375), looked for in chunks of twice the batch.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Lowest predicted reward admitted.
    pub low: f64,
    /// Highest predicted reward admitted.
    pub high: f64,
    /// Candidates looked at per prompt wanted, at most.
    pub scan_cap: usize,
}

impl Window {
    /// How far the prediction (without one, the believed pass rate) lies outside of the window; 0 inside.
    fn distance(&self, predicted_reward: f32, forecast: &Forecast) -> f64 {
        // The bounds are compared in the predictions' own precision: 0.15 is inside of a window from 0.15.
        let (low, high) = (f64::from(self.low as f32), f64::from(self.high as f32));
        let value = if predicted_reward.is_nan() { forecast.pass_rate } else { f64::from(predicted_reward) };
        (low - value).max(value - high).max(0.0)
    }
}

impl SelectionPolicy for Window {
    fn fresh_candidates(&self, progress: &Progress) -> usize {
        if progress.admitted >= progress.n {
            return 0;
        }
        let chunk = progress.n.saturating_mul(2).saturating_sub(progress.waiting);
        let cap = progress.n.saturating_mul(self.scan_cap);
        chunk.min(cap.saturating_sub(progress.judged + progress.waiting))
    }

    fn judge(&self, predicted_reward: f32, forecast: &Forecast) -> Judgement {
        let distance = self.distance(predicted_reward, forecast);
        let standing = if distance > 0.0 { Standing::Rejected } else { Standing::Admitted };
        Judgement { standing, score: -distance as f32 }
    }

    fn wants(&self, predicted_reward: f32, forecast: &Forecast, _threshold: f64) -> bool {
        self.distance(predicted_reward, forecast) <= 0.0
    }
}

/// The most probably informative of a fixed number of candidates per place.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Candidates compared per prompt wanted.
    pub candidates_per_draw: usize,
}

impl SelectionPolicy for Budget {
    fn fresh_candidates(&self, progress: &Progress) -> usize {
        progress.n.saturating_mul(self.candidates_per_draw).saturating_sub(progress.judged + progress.waiting)
    }

    fn judge(&self, _predicted_reward: f32, forecast: &Forecast) -> Judgement {
        Judgement { standing: Standing::Competing, score: forecast.p_informative as f32 }
    }

    fn wants(&self, _predicted_reward: f32, forecast: &Forecast, threshold: f64) -> bool {
        // In the scores' own precision, for the threshold is made of scores.
        f64::from(forecast.p_informative as f32) >= threshold
    }
}

/// Name of a selection policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// `Uniform`.
    Uniform,
    /// `Window`.
    Window,
    /// `Budget`.
    Budget,
}

impl PolicyKind {
    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Window => "window",
            Self::Budget => "budget",
        }
    }
}

impl std::str::FromStr for PolicyKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Uniform, Self::Window, Self::Budget]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::argument("policy", format!("{name:?}"), "uniform, window or budget"))
    }
}
