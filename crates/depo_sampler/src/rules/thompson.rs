//! Thompson sampling (Thompson, Biometrika 1933) on the project's own belief: a pass rate p is
//! drawn from it, and the score is the probability 1 - p^G - (1 - p)^G that a group at p is
//! informative.
//!
//! That score rises with min(p, 1 - p), so it ranks as the distance of p to 1/2 does; it is
//! preferred because it is a probability, comparable with the running admission threshold at any G.
//! Unlike `MoPPS` (arXiv 2507.04632) the draw uses text, age and base rate.

use super::{Judgement, Prospect, Registered, Search, SelectionRule};
use crate::belief::Belief;
use depo_structures::portable::power;

pub(super) const RULE: Registered = Registered {
    name: "thompson",
    options: &[],
    build: |settings, _| {
        Box::new(Thompson {
            candidates_per_draw: settings.candidates_per_draw,
            group_size: settings.group_size as u32,
        })
    },
};

struct Thompson {
    candidates_per_draw: usize,
    group_size: u32,
}

impl SelectionRule for Thompson {
    fn search(&self) -> Search {
        Search::Compare { candidates_per_draw: self.candidates_per_draw }
    }

    fn judge(&self, prospect: &Prospect, belief: &dyn Belief) -> Judgement {
        let pass_rate = belief.draw_pass_rate(
            prospect.prompt,
            prospect.predicted_reward,
            prospect.policy_version,
            prospect.stream,
        );
        Judgement::competing(
            1.0 - power(pass_rate, self.group_size) - power(1.0 - pass_rate, self.group_size),
        )
    }
}
