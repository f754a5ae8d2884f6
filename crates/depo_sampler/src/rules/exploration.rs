//! Where exploration looks: clusters of prompts are the arms of a bandit whose worth drifts.
//! FDSW-UCB: the mean of discounted and sliding-window UCB (both of Garivier and Moulines, "On
//! upper-confidence bound policies for switching bandit problems", ALT 2011).
//!
//! A pull is an explored group, its reward 1 if the group was informative. A cluster is a bin of
//! the believed pass rate in one source. Five bins keep the arms few, for a run explores few
//! groups, and still separate prompts that always fail or always succeed from the others.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::registry::by_name;
use crate::state::{StateMap, StateReader};
use depo_structures::portable::ln;

/// Equal bins of the believed pass rate, per source.
pub const PASS_RATE_BINS: u32 = 5;

/// What is left of a pull's weight when the next one comes.
const DISCOUNT: f64 = 0.99;

/// Weight of the confidence bonus.
const BONUS: f64 = 1.0;

/// Shortest window, the discount's own memory: 1 / (1 - 0.99) pulls. The published length follows
/// from the length of the run and the number of drifts in it, which is unknown beforehand.
const SHORTEST_WINDOW: usize = 100;

/// Window of many clusters, so that being out of it decides at most one pull in so many.
const PULLS_PER_CLUSTER: usize = 4;

/// How the explored places of a batch are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExploreBy {
    /// At random among all that the rule rejects.
    Uniform,
    /// To the clusters that promise the most informative groups, at random within each.
    Ucb,
}

impl ExploreBy {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Ucb];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Ucb => "ucb",
        }
    }
}

impl FromStr for ExploreBy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("explore_by", name, &Self::ALL, Self::name)
    }
}

/// The cluster of a prompt from `source` of which this pass rate, in [0, 1], is believed.
pub fn cluster(source: u32, pass_rate: f32) -> u32 {
    source * PASS_RATE_BINS + ((pass_rate * PASS_RATE_BINS as f32) as u32).min(PASS_RATE_BINS - 1)
}

/// What is known of one cluster.
#[derive(Debug, Clone, Copy, Default)]
struct Arm {
    discounted_rewards: f64,
    discounted_pulls: f64,
    window_rewards: u32,
    window_pulls: u32,
}

/// Upper confidence bounds of a cluster; infinite where nothing is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Of discounted pulls.
    pub discounted: f64,
    /// Of the pulls in the window.
    pub window: f64,
}

impl Bounds {
    /// Both combined, by their mean.
    pub fn combined(self) -> f64 {
        f64::midpoint(self.discounted, self.window)
    }
}

fn upper_bound(rewards: f64, pulls: f64, all_pulls: f64) -> f64 {
    if pulls > 0.0 {
        rewards / pulls + BONUS * (ln(all_pulls) / pulls).sqrt()
    } else {
        f64::INFINITY
    }
}

/// All clusters, as arms of one bandit.
#[derive(Debug, Clone)]
pub struct Arms {
    /// Those ever pulled.
    by_cluster: BTreeMap<u32, Arm>,
    /// The last pulls: cluster, and whether the group was informative.
    window: VecDeque<(u32, bool)>,
    window_length: usize,
}

impl Arms {
    /// Nothing pulled yet, of a pool with so many sources.
    pub fn new(sources: usize) -> Self {
        let window_length =
            SHORTEST_WINDOW.max(PULLS_PER_CLUSTER * PASS_RATE_BINS as usize * sources);
        Self { by_cluster: BTreeMap::new(), window: VecDeque::new(), window_length }
    }

    /// Takes in an explored group.
    pub fn pull(&mut self, cluster: u32, informative: bool) {
        for arm in self.by_cluster.values_mut() {
            arm.discounted_rewards *= DISCOUNT;
            arm.discounted_pulls *= DISCOUNT;
        }
        let arm = self.by_cluster.entry(cluster).or_default();
        arm.discounted_rewards += f64::from(u8::from(informative));
        arm.discounted_pulls += 1.0;
        self.extend_window(cluster, informative);
    }

    fn extend_window(&mut self, cluster: u32, informative: bool) {
        self.window.push_back((cluster, informative));
        let arm = self.by_cluster.entry(cluster).or_default();
        arm.window_pulls += 1;
        arm.window_rewards += u32::from(informative);
        if self.window.len() <= self.window_length {
            return;
        }
        if let Some((oldest, was_informative)) = self.window.pop_front() {
            let arm = self.by_cluster.entry(oldest).or_default();
            arm.window_pulls -= 1;
            arm.window_rewards -= u32::from(was_informative);
        }
    }

    /// Bounds of a cluster: mean reward + sqrt(ln(all pulls) / its pulls), in both views.
    pub fn bounds(&self, cluster: u32) -> Bounds {
        let arm = self.by_cluster.get(&cluster).copied().unwrap_or_default();
        let all_pulls: f64 = self.by_cluster.values().map(|arm| arm.discounted_pulls).sum();
        Bounds {
            discounted: upper_bound(arm.discounted_rewards, arm.discounted_pulls, all_pulls),
            window: upper_bound(
                arm.window_rewards.into(),
                arm.window_pulls.into(),
                self.window.len() as f64,
            ),
        }
    }

    /// Gives `places` one by one to the cluster with the greatest combined bound that still has
    /// candidates, which `candidates` counts. Of equals (all that are out of the window are) the
    /// greatest discounted bound comes first, then the lowest number.
    ///
    /// A place counts at once as a pull without reward, or a batch would explore a single cluster.
    /// Clusters out of the window come before those in it: no cluster with candidates waits for
    /// more pulls than the window and the number of clusters together.
    pub fn share_out(
        &self,
        candidates: &BTreeMap<u32, usize>,
        places: usize,
    ) -> BTreeMap<u32, usize> {
        let mut imagined = self.clone();
        let mut given: BTreeMap<u32, usize> = BTreeMap::new();
        for _ in 0..places {
            let open = candidates
                .iter()
                .filter(|&(cluster, &count)| given.get(cluster).copied().unwrap_or(0) < count);
            let ranked = open.map(|(&cluster, _)| (cluster, imagined.bounds(cluster)));
            let order = |a: Bounds, b: Bounds| {
                a.combined().total_cmp(&b.combined()).then(a.discounted.total_cmp(&b.discounted))
            };
            let Some((best, _)) =
                ranked.max_by(|(a, of_a), (b, of_b)| order(*of_a, *of_b).then(b.cmp(a)))
            else {
                break;
            };
            *given.entry(best).or_default() += 1;
            imagined.pull(best, false);
        }
        given
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        let column =
            |field: fn(&Arm) -> f64| self.by_cluster.values().map(field).collect::<Vec<f64>>();
        state.insert(
            "exploration.clusters".into(),
            self.by_cluster.keys().copied().collect::<Vec<_>>().into(),
        );
        state.insert("exploration.rewards".into(), column(|arm| arm.discounted_rewards).into());
        state.insert("exploration.pulls".into(), column(|arm| arm.discounted_pulls).into());
        state.insert(
            "exploration.window_clusters".into(),
            self.window.iter().map(|pull| pull.0).collect::<Vec<_>>().into(),
        );
        state.insert(
            "exploration.window_informative".into(),
            self.window.iter().map(|pull| u8::from(pull.1)).collect::<Vec<_>>().into(),
        );
    }

    pub(crate) fn restore(&mut self, state: &mut StateReader) -> Result<()> {
        let clusters: Vec<u32> = state.take("exploration.clusters")?;
        let rewards: Vec<f64> = state.array("exploration.rewards", clusters.len())?;
        let pulls: Vec<f64> = state.array("exploration.pulls", clusters.len())?;
        let window_clusters: Vec<u32> = state.take("exploration.window_clusters")?;
        let window_informative: Vec<u8> =
            state.array("exploration.window_informative", window_clusters.len())?;
        for (row, &cluster) in clusters.iter().enumerate() {
            let arm = Arm {
                discounted_rewards: rewards[row],
                discounted_pulls: pulls[row],
                ..Arm::default()
            };
            self.by_cluster.insert(cluster, arm);
        }
        for (&cluster, &informative) in window_clusters.iter().zip(&window_informative) {
            self.extend_window(cluster, informative != 0);
        }
        Ok(())
    }
}
