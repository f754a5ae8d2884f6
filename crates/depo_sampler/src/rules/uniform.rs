//! Every prompt, in epoch order, as GRPO (arXiv 2402.03300) and DAPO (arXiv 2503.14476) do.

use super::{Judgement, Prospect, Registered, Search, SelectionRule};
use crate::belief::Belief;

pub(super) const RULE: Registered =
    Registered { name: "uniform", options: &[], build: |_, _| Box::new(Uniform) };

struct Uniform;

impl SelectionRule for Uniform {
    fn search(&self) -> Search {
        Search::Missing { cap: 1 }
    }

    fn judge(&self, _prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        Judgement::admitted_if(true)
    }
}
