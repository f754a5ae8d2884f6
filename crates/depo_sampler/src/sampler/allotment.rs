//! Which candidates of a batch get a place, and with which probability: merit, exploration,
//! filling up.

use std::collections::BTreeMap;

use crate::rng::Stream;
use crate::rules::Standing;
use crate::rules::exploration::{self, Arms};
use crate::sampler::draws::DrawKind;

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
    /// Believed mean pass rate.
    pub pass_rate: f32,
    /// Where it stands.
    pub standing: Standing,
    /// Order within the standing, higher first.
    pub score: f32,
    /// Whether it was unlabeled for too long, so that it is drawn in any case, if only to be
    /// probed.
    pub due: bool,
}

/// What one batch gives out.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Prompts wanted.
    pub n: usize,
    /// Whether the admitted without a place wait for the next batch. If not, candidates must have
    /// arrived in random order.
    pub surplus_waits: bool,
    /// Share of them explored, in [0, 1].
    pub explore_share: f64,
    /// What is known of the clusters that share the explored places out; none: all candidates have
    /// the same chance.
    pub arms: Option<&'a Arms>,
    /// Least share by source index, for candidates that compete.
    pub source_floors: &'a [f32],
    /// Source index by prompt.
    pub sources: &'a [u32],
}

impl Places<'_> {
    fn source(&self, candidate: &Candidate) -> u32 {
        self.sources[candidate.prompt as usize]
    }

    fn cluster(&self, candidate: &Candidate) -> u32 {
        exploration::cluster(self.source(candidate), candidate.pass_rate)
    }
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
    /// Lowest score that got a place in open competition; none if no score did.
    pub lowest_on_merit: Option<f32>,
}

/// Whole number of places that make up at least `share` of `n`.
pub(crate) fn places_for(share: f64, n: usize) -> usize {
    (share * n as f64 - ROUNDING).ceil().max(0.0) as usize
}

/// Candidates in order of claim: by standing, then winners of a source's floor, then score, then
/// arrival.
struct Ranking {
    order: Vec<usize>,
    /// Admitted without competition.
    admitted: usize,
    competing: usize,
    floored: usize,
}

impl Ranking {
    fn new(candidates: &[Candidate], places: &Places) -> Self {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let standing = |&index: &usize| candidates[index].standing;
        order.sort_by(|a, b| {
            standing(a)
                .cmp(&standing(b))
                .then(candidates[*b].score.total_cmp(&candidates[*a].score))
        });
        let count =
            |last: Standing| order.iter().take_while(|index| standing(index) <= last).count();
        let admitted = count(Standing::Admitted);
        let competing = count(Standing::Competing) - admitted;
        let mut quotas: Vec<usize> = places
            .source_floors
            .iter()
            .map(|&floor| places_for(f64::from(floor), places.n))
            .collect();
        let (winners, others): (Vec<usize>, Vec<usize>) =
            order[admitted..admitted + competing].iter().partition(|&&index| {
                let quota = &mut quotas[places.source(&candidates[index]) as usize];
                let admitted = *quota > 0;
                *quota -= usize::from(admitted);
                admitted
            });
        order.splice(admitted..admitted + competing, winners.iter().chain(&others).copied());
        Self { order, admitted, competing, floored: winners.len() }
    }
}

/// How the ranking is divided when `explore` places are for exploration: positions ..merit and
/// gate..gate + fill get a place for certain, merit..gate wait for the next batch, and `explore` of
/// the rest are drawn at random.
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
}

/// Some of the positions left to exploration; `places` of them are drawn.
struct Lottery {
    positions: Vec<usize>,
    places: usize,
    stream: Stream,
}

/// A division, with the draws that give out its explored places.
struct Plan {
    division: Division,
    lotteries: Vec<Lottery>,
}

impl Plan {
    fn new(
        ranking: &Ranking,
        candidates: &[Candidate],
        places: &Places,
        explore: usize,
        exploration: Stream,
    ) -> Self {
        let division = Division::new(ranking, places.n, explore);
        let (rest, explore) = (division.gate + division.fill..division.len, division.explore);
        let Some(arms) = places.arms else {
            return Self {
                division,
                lotteries: vec![Lottery {
                    positions: rest.collect(),
                    places: explore,
                    stream: exploration,
                }],
            };
        };
        let mut clusters: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for position in rest {
            clusters
                .entry(places.cluster(&candidates[ranking.order[position]]))
                .or_default()
                .push(position);
        }
        let sizes =
            clusters.iter().map(|(&cluster, positions)| (cluster, positions.len())).collect();
        let given = arms.share_out(&sizes, explore);
        let lottery = |(cluster, positions): (u32, Vec<usize>)| {
            let (places, stream) = (
                given.get(&cluster).copied().unwrap_or(0),
                Stream::new(exploration.bits(cluster.into())),
            );
            Lottery { positions, places, stream }
        };
        Self { division, lotteries: clusters.into_iter().map(lottery).collect() }
    }

    /// Probability of each position that its candidate gets a place, now or (if it only has to
    /// wait) later.
    fn inclusions(&self, surplus_waits: bool) -> Vec<f64> {
        let Division { merit, gate, fill, len, .. } = self.division;
        let mut inclusions = vec![0.0; len];
        inclusions[..gate + fill].fill(1.0);
        inclusions[merit..gate].fill(f64::from(u8::from(surplus_waits)));
        for Lottery { positions, places, .. } in &self.lotteries {
            for &position in positions {
                inclusions[position] = *places as f64 / positions.len() as f64;
            }
        }
        inclusions
    }

    /// Draws the positions to be explored.
    fn explored(&self) -> impl Iterator<Item = usize> {
        let draw =
            |lottery: &Lottery| lottery.stream.sample(lottery.positions.len(), lottery.places);
        self.lotteries.iter().flat_map(move |lottery| {
            draw(lottery).into_iter().map(|index| lottery.positions[index])
        })
    }
}

/// Gives all positions of equal key the mean of their values.
fn share_among_equals<K: Ord>(values: &mut [f64], key: impl Fn(usize) -> K) {
    let mut totals: BTreeMap<K, (f64, f64)> = BTreeMap::new();
    for (position, value) in values.iter().enumerate() {
        let (sum, count) = totals.entry(key(position)).or_default();
        *sum += value;
        *count += 1.0;
    }
    for (position, value) in values.iter_mut().enumerate() {
        let (sum, count) = totals[&key(position)];
        *value = sum / count;
    }
}

/// Averages the probabilities over orders of arrival: ties share what they get without a floor,
/// then ties of one source what they get; exact but where a floor cuts through ties of several
/// sources. With arms, ties of one cluster share, which is exact given the clusters in their order
/// of claim.
fn share_among_ties(
    admissions: &mut [f64],
    ranking: &Ranking,
    candidates: &[Candidate],
    places: &Places,
) {
    let candidate = |position: usize| &candidates[ranking.order[position]];
    let tie = |position: usize| (candidate(position).standing, candidate(position).score.to_bits());
    if places.arms.is_some() {
        share_among_equals(admissions, |position| {
            (tie(position), places.cluster(candidate(position)))
        });
        return;
    }
    let winners = ranking.admitted..ranking.admitted + ranking.floored;
    share_among_equals(admissions, |position| (tie(position), winners.contains(&position)));
    share_among_equals(admissions, |position| (tie(position), places.source(candidate(position))));
}

fn kind_on_merit(standing: Standing) -> DrawKind {
    match standing {
        Standing::Warmup => DrawKind::Warmup,
        Standing::Admitted | Standing::Competing | Standing::Rejected => DrawKind::Selected,
    }
}

/// The picks of a plan: on merit, to fill up, explored.
fn picks_of(
    plan: &Plan,
    ranking: &Ranking,
    candidates: &[Candidate],
    admissions: &[f64],
) -> Vec<Pick> {
    let Division { merit, gate, fill, .. } = plan.division;
    let pick = |position: usize, kind: DrawKind| Pick {
        candidate: ranking.order[position],
        kind,
        admission: admissions[position],
    };
    let on_merit = |position: usize| {
        pick(position, kind_on_merit(candidates[ranking.order[position]].standing))
    };
    let mut picks: Vec<Pick> = (0..merit).map(on_merit).collect();
    picks.extend((gate..gate + fill).map(|position| pick(position, DrawKind::Fill)));
    picks.extend(plan.explored().map(|position| pick(position, DrawKind::Explore)));
    picks
}

/// Gives out the places. `explore_share * n` is rounded to a whole number at random, without bias.
/// Recorded admissions are averages over both ways to round, and over ties where no candidate
/// waits. So they are the exact probabilities, given the arms if there are any.
///
/// With arms, candidates of a cluster without a place have no chance: weights of 1 / admission then
/// stand for the explored clusters alone.
pub fn allot(
    candidates: &[Candidate],
    places: &Places,
    rounding: Stream,
    exploration: Stream,
) -> Allotment {
    let ranking = Ranking::new(candidates, places);
    let expected = places.explore_share * places.n as f64;
    let fraction = expected.fract();
    let plan =
        |explore: f64| Plan::new(&ranking, candidates, places, explore as usize, exploration);
    let (rounded_down, rounded_up) = (plan(expected.floor()), plan(expected.ceil()));
    let pairs = rounded_down
        .inclusions(places.surplus_waits)
        .into_iter()
        .zip(rounded_up.inclusions(places.surplus_waits));
    let mut admissions: Vec<f64> =
        pairs.map(|(down, up)| (1.0 - fraction) * down + fraction * up).collect();
    if !places.surplus_waits {
        share_among_ties(&mut admissions, &ranking, candidates, places);
    }
    let plan = if rounding.unit(0) < fraction { rounded_up } else { rounded_down };
    let Division { merit, gate, fill, len, .. } = plan.division;
    let picks = picks_of(&plan, &ranking, candidates, &admissions);
    let contested = merit > ranking.admitted + ranking.floored;
    Allotment {
        picks,
        surplus: ranking.order[merit..gate].to_vec(),
        rejected: len - gate,
        filled: fill,
        lowest_on_merit: contested.then(|| candidates[ranking.order[merit - 1]].score),
    }
}
