//! DPS, "Dynamics-predictive sampling for active RL finetuning of large reasoning models" (arXiv
//! 2603.10887).
//!
//! Each prompt is a Markov chain over none, some and all of a group solved; a label shows its
//! state. The transition matrix P is the mean of Dirichlet counts (from-states in columns), which
//! start at 1 and grow by the posterior of the transition into the state that a label shows, from
//! the state's distribution one version earlier. Candidates with the greatest probability of "some"
//! are taken.
//!
//! The source moves every prompt's distribution by P once per step. Counts change with labels only
//! (its decay is 1 by default), so k versions without a label are the column of P^k, taken when
//! needed: the same numbers without a loop over the pool. Not reproduced: other prior shapes,
//! decay below 1, and the entropy bonus (0 by default). Labels and candidates no newer than the
//! last label count as one version later.

use super::{Judgement, Prospect, Registered, RuleSettings, Search, SelectionRule};
use crate::belief::{Belief, Label};
use crate::error::{Error, Result};
use crate::state::{Carry, StateMap, StateReader};

const STATES: usize = 3;
const SOME: usize = 1;

pub(super) const RULE: Registered = Registered {
    name: "dps",
    options: &[],
    build: |settings, len| Box::new(Dps::new(settings, len)),
};

type Matrix = [[f64; STATES]; STATES];
type Distribution = [f64; STATES];

#[derive(Clone, Copy)]
struct Chain {
    /// Dirichlet counts, [to][from].
    counts: Matrix,
    /// State that the last label showed; none before the first.
    state: Option<u8>,
    version: u32,
}

const UNSEEN: Chain = Chain { counts: [[1.0; STATES]; STATES], state: None, version: 0 };

struct Dps {
    candidates_per_draw: usize,
    chains: Vec<Chain>,
}

impl Dps {
    fn new(settings: &RuleSettings, len: usize) -> Self {
        Self { candidates_per_draw: settings.candidates_per_draw, chains: vec![UNSEEN; len] }
    }
}

fn product(left: &Matrix, right: &Matrix) -> Matrix {
    let element =
        |to: usize, from: usize| (0..STATES).map(|via| left[to][via] * right[via][from]).sum();
    std::array::from_fn(|to| std::array::from_fn(|from| element(to, from)))
}

impl Chain {
    fn transition(&self) -> Matrix {
        let column = |from: usize| self.counts.iter().map(|row| row[from]).sum::<f64>();
        let totals: Distribution = std::array::from_fn(column);
        self.counts.map(|row| std::array::from_fn(|from| row[from] / totals[from]))
    }

    /// Distribution of the state so many versions after the last label. Before the first it is
    /// uniform, which P, uniform then, preserves.
    fn after(&self, versions: u32) -> Distribution {
        let Some(state) = self.state else { return [1.0 / STATES as f64; STATES] };
        let (mut factor, mut rest) = (self.transition(), versions);
        let mut moved: Distribution =
            std::array::from_fn(|other| f64::from(u8::from(other == usize::from(state))));
        while rest > 0 {
            if rest & 1 == 1 {
                moved = factor
                    .map(|row| row.iter().zip(&moved).map(|(weight, share)| weight * share).sum());
            }
            factor = product(&factor, &factor);
            rest >>= 1;
        }
        moved
    }

    fn observe(&mut self, state: usize, version: u32) {
        let before = self.after(version.saturating_sub(self.version).saturating_sub(1));
        let into = self.transition()[state];
        let joint: Distribution = std::array::from_fn(|from| into[from] * before[from]);
        let total: f64 = joint.iter().sum();
        for (count, share) in self.counts[state].iter_mut().zip(joint) {
            *count += share / total;
        }
        self.state = Some(state as u8);
        self.version = self.version.max(version);
    }
}

impl SelectionRule for Dps {
    fn search(&self) -> Search {
        Search::Compare { candidates_per_draw: self.candidates_per_draw }
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let chain = &self.chains[prospect.prompt as usize];
        Judgement::competing(
            chain.after(prospect.policy_version.saturating_sub(chain.version).max(1))[SOME],
        )
    }

    fn observe(&mut self, label: &Label) {
        let state = match (label.informative, label.successes) {
            (true, _) => SOME,
            (false, 0) => 0,
            (false, _) => STATES - 1,
        };
        self.chains[label.prompt as usize].observe(state, label.version);
    }

    fn save(&self, state: &mut StateMap) {
        let counts = self.chains.iter().flat_map(|chain| chain.counts.into_iter().flatten());
        state.insert("policy.counts".into(), counts.collect::<Vec<f64>>().into());
        let states = self.chains.iter().map(|chain| chain.state.unwrap_or(STATES as u8));
        state.insert("policy.states".into(), states.collect::<Vec<u8>>().into());
        state.insert(
            "policy.versions".into(),
            self.chains.iter().map(|chain| chain.version).collect::<Vec<u32>>().into(),
        );
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let counts = state.lent::<f64>("policy.counts", len * STATES * STATES)?;
        let states: Vec<u8> = state.array("policy.states", len)?;
        let versions = state.lent("policy.versions", len)?;
        if let Some(&code) = states.iter().find(|&&code| usize::from(code) > STATES) {
            return Err(Error::state_entry("policy.states", code, "0..3"));
        }
        let chain = |prompt: usize| Chain {
            counts: std::array::from_fn(|to| {
                std::array::from_fn(|from| counts[(prompt * STATES + to) * STATES + from])
            }),
            state: Some(states[prompt]).filter(|&code| usize::from(code) < STATES),
            version: versions[prompt],
        };
        self.chains = carry.gather(chain, UNSEEN);
        Ok(())
    }
}
