//! The most probably informative of a fixed number of candidates per place: this project's own.
//!
//! The score is P(informative) plus optimism: a share of its standard deviation, for what is
//! learned from a draw serves later draws (upper confidence bounds; Auer, Cesa-Bianchi and Fischer,
//! Machine Learning 2002). Prompts without a label get another share, `curiosity`, which grows with
//! the labels per prompt so far, to full at one: the best guess of how often prompts will be met
//! again is how often they were.

use super::{
    CandidatesFrom, Judgement, NamedOption, Prospect, Registered, Search, SelectionRule, Wanted,
};
use crate::belief::{Belief, PoolQuery};

/// Standard deviations added for a prompt with labels.
const OPTIMISM: NamedOption = NamedOption { name: "optimism", default: 1.25, range: (0.0, 10.0) };

/// Standard deviations added for a prompt without a label, once prompts come round again.
const CURIOSITY: NamedOption = NamedOption { name: "curiosity", default: 2.0, range: (0.0, 10.0) };

pub(super) const RULE: Registered = Registered {
    name: "budget",
    options: &[OPTIMISM, CURIOSITY],
    build: |settings, _| {
        Box::new(Budget {
            candidates_per_draw: settings.candidates_per_draw,
            searches_pool: settings.candidates_from == CandidatesFrom::Pool,
            min_age: settings.min_age,
            optimism: OPTIMISM.of(&settings.rule_options),
            curiosity: CURIOSITY.of(&settings.rule_options),
        })
    },
};

struct Budget {
    candidates_per_draw: usize,
    searches_pool: bool,
    min_age: u32,
    optimism: f64,
    curiosity: f64,
}

impl Budget {
    /// Standard deviations added for prompts without a label, and with.
    fn deviations(&self, visits: f64) -> [f64; 2] {
        [self.curiosity * visits.min(1.0), self.optimism]
    }
}

impl SelectionRule for Budget {
    fn search(&self) -> Search {
        Search::Compare { candidates_per_draw: self.candidates_per_draw }
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let deviations = self.deviations(prospect.visits)[usize::from(prospect.forecast.labelled)];
        Judgement::competing(
            prospect.forecast.p_informative + deviations * prospect.forecast.deviation,
        )
    }

    fn nominate(&mut self, wanted: &Wanted, belief: &mut dyn Belief) -> Vec<u32> {
        if !self.searches_pool {
            return vec![];
        }
        let Wanted { count, policy_version: version, visits, is_free, .. } = *wanted;
        // One of those that compete for a place comes in epoch order: without it, a wrong belief of
        // a prompt that is never nominated would stay wrong.
        let count = count - count / self.candidates_per_draw;
        belief.best_of_pool(&PoolQuery {
            count,
            version,
            min_age: self.min_age,
            deviations: self.deviations(visits),
            is_free,
        })
    }
}
