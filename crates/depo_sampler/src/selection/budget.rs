//! The most probably informative of a fixed number of candidates per place: this project's own.
//!
//! The score is P(informative) plus optimism: a share of its standard deviation, for what is learned from a draw serves later draws (upper
//! confidence bounds; Auer, Cesa-Bianchi and Fischer, Machine Learning 2002). Prompts without a label get another share, `curiosity`, which
//! grows with the labels per prompt so far, to full at one: the best guess of how often prompts will be met again is how often they were.

use super::{Asked, Judgement, NamedOption, Registered, Search, SelectionPolicy};
use crate::belief::Belief;

/// Standard deviations added for a prompt with labels.
const OPTIMISM: NamedOption = NamedOption { name: "optimism", default: 1.25, range: (0.0, 10.0) };

/// Standard deviations added for a prompt without a label, once prompts come round again.
const CURIOSITY: NamedOption = NamedOption { name: "curiosity", default: 2.0, range: (0.0, 10.0) };

pub(super) const POLICY: Registered = Registered {
    name: "budget",
    options: &[OPTIMISM, CURIOSITY],
    build: |settings, _| {
        Box::new(Budget {
            candidates_per_draw: settings.candidates_per_draw,
            optimism: OPTIMISM.of(&settings.policy_options),
            curiosity: CURIOSITY.of(&settings.policy_options),
        })
    },
};

struct Budget {
    candidates_per_draw: usize,
    optimism: f64,
    curiosity: f64,
}

impl SelectionPolicy for Budget {
    fn search(&self) -> Search {
        Search::Compare { candidates_per_draw: self.candidates_per_draw }
    }

    fn judge(&self, asked: &Asked, _belief: &dyn Belief) -> Judgement {
        let deviations = if asked.forecast.labelled { self.optimism } else { self.curiosity * asked.visits.min(1.0) };
        Judgement::competing(asked.forecast.p_informative + deviations * asked.forecast.deviation)
    }
}
