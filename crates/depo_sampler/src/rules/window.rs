//! Predicted rewards within a window (DEPO, arXiv 2602.06375), looked for in chunks of twice the
//! batch.
//!
//! Without a text prediction the believed pass rate takes its place, which the paper does not have.

use super::{Judgement, Prospect, Registered, Search, SelectionRule, Standing};
use crate::belief::Belief;

pub(super) const RULE: Registered = Registered {
    name: "window",
    options: &[],
    build: |settings, _| {
        Box::new(Window {
            low: settings.window.0,
            high: settings.window.1,
            scan_cap: settings.scan_cap,
        })
    },
};

struct Window {
    low: f64,
    high: f64,
    scan_cap: usize,
}

impl Window {
    /// How far the prediction lies outside of the window; 0 inside.
    fn distance(&self, prospect: &Prospect) -> f64 {
        // The bounds are compared in the predictions' own precision: 0.15 is inside of a window
        // from 0.15.
        let (low, high) = (f64::from(self.low as f32), f64::from(self.high as f32));
        let value = if prospect.predicted_reward.is_nan() {
            prospect.forecast.pass_rate
        } else {
            f64::from(prospect.predicted_reward)
        };
        (low - value).max(value - high).max(0.0)
    }
}

impl SelectionRule for Window {
    fn search(&self) -> Search {
        Search::Chunks { cap: self.scan_cap }
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let distance = self.distance(prospect);
        let standing = if distance > 0.0 { Standing::Rejected } else { Standing::Admitted };
        Judgement { standing, score: -distance as f32 }
    }
}
