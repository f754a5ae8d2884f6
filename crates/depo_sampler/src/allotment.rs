//! Who of a batch's candidates gets a place, and with which probability: re-probes, merit, exploration, filling up.

use crate::draws::DrawKind;
use crate::rng::Stream;
use crate::selection::Standing;

/// Shares are products of decimal fractions; a hair above a whole number is that number.
const ROUNDING: f64 = 1e-6;

/// One judged candidate of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Prompt index.
    pub prompt: u32,
    /// Text prediction it was judged with; NaN without one.
    pub predicted_reward: f32,
    /// Believed probability that its group is informative.
    pub p_informative: f32,
    /// Where it stands.
    pub standing: Standing,
    /// Order within the standing, higher first.
    pub score: f32,
}

/// What one batch gives out.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Prompts wanted.
    pub n: usize,
    /// Share of them explored, in [0, 1].
    pub explore_share: f64,
    /// Least share by source index, for candidates that compete.
    pub source_floors: &'a [f32],
    /// Source index by prompt.
    pub sources: &'a [u32],
}

/// A candidate that gets a place.
#[derive(Debug, Clone, Copy)]
pub struct Pick {
    /// Index into the candidates.
    pub candidate: usize,
    /// Why.
    pub kind: DrawKind,
    /// Probability with which this candidate was to get a place, in (0, 1].
    pub admission: f64,
}

/// The outcome of a batch.
#[derive(Debug, Clone)]
pub struct Allotment {
    /// Candidates that get a place: on merit, to fill up, to explore.
    pub picks: Vec<Pick>,
    /// Candidates admitted beyond the places there are, in order.
    pub surplus: Vec<usize>,
    /// Number of candidates rejected, picked to explore or fill up or not.
    pub rejected: usize,
    /// Number picked to fill up.
    pub filled: usize,
    /// Lowest score that won a place in open competition; none if nobody did.
    pub lowest_on_merit: Option<f32>,
}

/// Whole number of places that make up at least `share` of `n`.
pub(crate) fn places_for(share: f64, n: usize) -> usize {
    (share * n as f64 - ROUNDING).ceil().max(0.0) as usize
}

/// Candidates in order of claim: by standing, then winners of a source's floor, then score, then arrival.
struct Ranking {
    order: Vec<usize>,
    reprobes: usize,
    /// Admitted without competition, re-probes included.
    admitted: usize,
    competing: usize,
    floored: usize,
}

impl Ranking {
    fn new(candidates: &[Candidate], places: &Places) -> Self {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let standing = |&index: &usize| candidates[index].standing;
        order.sort_by(|a, b| standing(a).cmp(&standing(b)).then(candidates[*b].score.total_cmp(&candidates[*a].score)));
        let count = |last: Standing| order.iter().take_while(|index| standing(index) <= last).count();
        let (reprobes, admitted) = (count(Standing::Reprobe), count(Standing::Admitted));
        let competing = count(Standing::Competing) - admitted;
        let mut quotas: Vec<usize> = places.source_floors.iter().map(|&floor| places_for(f64::from(floor), places.n)).collect();
        let (winners, others): (Vec<usize>, Vec<usize>) = order[admitted..admitted + competing].iter().partition(|&&index| {
            let quota = &mut quotas[places.sources[candidates[index].prompt as usize] as usize];
            let wins = *quota > 0;
            *quota -= usize::from(wins);
            wins
        });
        order.splice(admitted..admitted + competing, winners.iter().chain(&others).copied());
        Self { order, reprobes, admitted, competing, floored: winners.len() }
    }
}

/// How the ranking is divided when `explore` places are for exploration: positions ..merit and gate..gate + fill get a place for certain,
/// merit..gate wait for the next batch, and `explore` of the rest are drawn at random.
#[derive(Debug, Clone, Copy)]
struct Division {
    merit: usize,
    gate: usize,
    fill: usize,
    explore: usize,
    len: usize,
}

impl Division {
    fn new(ranking: &Ranking, n: usize, explore: usize) -> Self {
        let len = ranking.order.len();
        let open_places = n.saturating_sub(explore + ranking.admitted);
        let gate = ranking.admitted + ranking.competing.min(open_places);
        let explore = explore.min(len - gate);
        let merit = gate.min(n - explore);
        let fill = (len - gate - explore).min(n - merit - explore);
        Self { merit, gate, fill, explore, len }
    }

    /// Probability that the candidate at this position gets a place, now or (if it only has to wait) later.
    fn inclusion(&self, position: usize) -> f64 {
        let certain = self.gate + self.fill;
        if position < certain { 1.0 } else { self.explore as f64 / (self.len - certain) as f64 }
    }
}

fn kind_on_merit(standing: Standing) -> DrawKind {
    match standing {
        Standing::Reprobe => DrawKind::Reprobe,
        Standing::Warmup => DrawKind::Warmup,
        Standing::Admitted | Standing::Competing | Standing::Rejected => DrawKind::Selected,
    }
}

/// Gives out the places. `explore_share * n` is rounded to a whole number at random, without bias; recorded admissions are averages over
/// both ways to round, so they are the exact probabilities.
pub fn allot(candidates: &[Candidate], places: &Places, rounding: Stream, exploration: Stream) -> Allotment {
    let ranking = Ranking::new(candidates, places);
    let n = places.n;
    let expected = (places.explore_share * n as f64).min(n.saturating_sub(ranking.reprobes) as f64);
    let (floor, fraction) = (expected.floor() as usize, expected.fract());
    let rounded_down = Division::new(&ranking, n, floor);
    let rounded_up = Division::new(&ranking, n, expected.ceil() as usize);
    let division = if rounding.unit(0) < fraction { rounded_up } else { rounded_down };
    let Division { merit, gate, fill, explore, len } = division;
    let pick = |position: usize, kind: DrawKind| Pick {
        candidate: ranking.order[position],
        kind,
        admission: (1.0 - fraction) * rounded_down.inclusion(position) + fraction * rounded_up.inclusion(position),
    };
    let on_merit = |position: usize| pick(position, kind_on_merit(candidates[ranking.order[position]].standing));
    let mut picks: Vec<Pick> = (0..merit).map(on_merit).collect();
    picks.extend((gate..gate + fill).map(|position| pick(position, DrawKind::Fill)));
    let explored = exploration.sample(len - gate - fill, explore);
    picks.extend(explored.into_iter().map(|offset| pick(gate + fill + offset, DrawKind::Explore)));

    let contested = merit > ranking.admitted + ranking.floored;
    Allotment {
        picks,
        surplus: ranking.order[merit..gate].to_vec(),
        rejected: len - gate,
        filled: fill,
        lowest_on_merit: contested.then(|| candidates[ranking.order[merit - 1]].score),
    }
}
