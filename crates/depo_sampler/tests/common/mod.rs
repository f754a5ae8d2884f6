//! A caller that drives a sampler through arbitrary operations and writes down everything it
//! answers.

use depo_sampler::belief::BeliefKind;
use depo_sampler::rng::Stream;
use depo_sampler::rules::exploration::ExploreBy;
use depo_sampler::rules::{CandidatesFrom, RuleKind};
use depo_sampler::sampler::Status;
use depo_sampler::state::StateMap;
use depo_sampler::{Sampler, Settings};
use proptest::prelude::*;

/// One call, or one turn of the clock.
#[derive(Debug, Clone)]
pub enum Op {
    /// Propose for a batch of so many, unless candidates wait already.
    Propose(usize),
    /// Offer predictions for the candidates that wait.
    Offer,
    /// Take so many draws.
    Take(usize),
    /// A full batch: propose and offer until nothing more is proposed, then take.
    Batch(usize),
    /// A full batch among the prompts that these bits name.
    Among(usize, u64),
    /// Observe the draw at this place (modulo) among all draws ever made, with rewards made from
    /// this number.
    Observe(usize, u64),
    /// Release the draw at this place.
    Release(usize),
    /// So many rule steps pass; labels may still come from this many versions back.
    Step(u32),
    /// Sample the replay.
    Replay(usize),
    /// Drain the fresh targets.
    Fresh,
}

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..12_usize).prop_map(Op::Propose),
        Just(Op::Offer),
        (0..12_usize).prop_map(Op::Take),
        (0..12_usize).prop_map(Op::Batch),
        (0..12_usize, any::<u64>()).prop_map(|(n, bits)| Op::Among(n, bits)),
        (0..60_usize, any::<u64>()).prop_map(|(place, seed)| Op::Observe(place, seed)),
        (0..60_usize, any::<u64>()).prop_map(|(place, seed)| Op::Observe(place, seed)),
        (0..60_usize).prop_map(Op::Release),
        (1..4_u32).prop_map(Op::Step),
        (0..20_usize).prop_map(Op::Replay),
        Just(Op::Fresh),
    ];
    prop::collection::vec(op, 1..50)
}

pub fn settings() -> impl Strategy<Value = Settings> {
    let kinds = (
        prop::sample::select(RuleKind::ALL),
        prop::sample::select(BeliefKind::ALL),
        prop::sample::select(&ExploreBy::ALL),
    );
    let anyhow =
        (kinds, any::<u64>(), 0..4_u32, 0.0..0.5_f64, 0..5_u32, any::<bool>(), any::<bool>())
            .prop_map(
                |(
                    (rule, belief, explore_by),
                    seed,
                    warmup_steps,
                    explore_share,
                    max_age,
                    use_history,
                    floors,
                )| Settings {
                    group_size: 4,
                    rule,
                    belief,
                    seed,
                    warmup_steps,
                    explore_share,
                    explore_by,
                    max_age,
                    probe_rollouts: (max_age % 3) as usize,
                    use_history,
                    window: (0.4, 0.6),
                    scan_cap: 5,
                    candidates_per_draw: 3,
                    replay_capacity: 7,
                    source_floors: if floors { vec![0.3, 0.1] } else { vec![0.0, 0.0] },
                    ..Settings::default()
                },
            );
    (anyhow, any::<bool>()).prop_map(
        |(settings, searches)| {
            if searches { searching(settings) } else { settings }
        },
    )
}

/// The same with candidates from the whole pool, if that may be.
pub fn searching(settings: Settings) -> Settings {
    let searching = Settings { candidates_from: CandidatesFrom::Pool, ..settings.clone() };
    if searching.validate().is_ok() { searching } else { settings }
}

/// Applies the same operations to two callers, of which one continues from its saved state before
/// each; both must answer alike and end alike.
#[allow(dead_code, reason = "each test crate drives the caller its own way")]
pub fn split_equals_whole(
    whole: &mut Caller,
    split: &mut Caller,
    ops: &[Op],
) -> Result<(), TestCaseError> {
    for op in ops {
        whole.apply(op);
        split.reload();
        split.apply(op);
    }
    prop_assert_eq!(&whole.log, &split.log);
    // NaN differs from itself, so states are compared as text.
    prop_assert_eq!(format!("{:?}", whole.sampler.state()), format!("{:?}", split.sampler.state()));
    Ok(())
}

pub struct Caller {
    pub sampler: Sampler,
    pub settings: Settings,
    pub ids: Vec<u64>,
    pub version: u32,
    pub pending: Vec<i64>,
    pub issued: Vec<u64>,
    pub log: Vec<String>,
}

impl Caller {
    pub fn new(prompts: usize, settings: Settings) -> Self {
        let ids: Vec<u64> = (0..prompts as u64).map(|position| 1000 + 7 * position).collect();
        let sampler = build(&ids, &settings);
        Self { sampler, settings, ids, version: 0, pending: vec![], issued: vec![], log: vec![] }
    }

    /// Continues with a new sampler that was given nothing but the saved state.
    pub fn reload(&mut self) {
        let state: StateMap = self.sampler.state();
        self.sampler = build(&self.ids, &self.settings);
        self.sampler.load_state(state, true).unwrap();
    }

    #[allow(dead_code, reason = "each test crate drives the caller its own way")]
    pub fn apply_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Propose(n) if self.pending.is_empty() => self.propose(n),
            Op::Propose(_) => {}
            Op::Offer => self.offer(),
            Op::Take(n) => self.take(n),
            Op::Batch(n) => {
                self.offer();
                self.propose(n);
                while !self.pending.is_empty() {
                    self.offer();
                    self.propose(n);
                }
                self.take(n);
            }
            Op::Among(n, bits) => self.batch_among(n, bits),
            Op::Observe(place, seed) => self.observe(place, seed),
            Op::Release(place) => {
                let id = self.draw_id(place);
                let released = self.sampler.release(&[id]);
                self.note(&released);
            }
            Op::Step(steps) => self.version += steps,
            Op::Replay(m) => {
                let targets = self.sampler.replay_targets(m);
                self.note(&targets);
            }
            Op::Fresh => {
                let targets = self.sampler.fresh_targets();
                self.note(&targets);
            }
        }
    }

    fn note(&mut self, answer: &impl std::fmt::Debug) {
        self.log.push(format!("{answer:?}"));
    }

    fn propose(&mut self, n: usize) {
        let proposed = self.sampler.propose(n, self.version).unwrap();
        self.note(&proposed);
        self.pending = proposed.into_iter().map(i64::from).collect();
    }

    /// Ends the present batch and fills another one with named prompts.
    fn batch_among(&mut self, n: usize, bits: u64) {
        self.offer();
        self.take(0);
        let among: Vec<i64> =
            (0..self.ids.len() as i64).filter(|prompt| bits >> (prompt % 64) & 1 == 1).collect();
        let busy: Vec<i64> = self.sampler.in_flight().map(|draw| draw.prompt.into()).collect();
        let proposed = self.sampler.propose_among(n, self.version, &among).unwrap();
        self.note(&proposed);
        let mut sorted: Vec<i64> = proposed.iter().copied().map(i64::from).collect();
        self.pending.clone_from(&sorted);
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            among.into_iter().filter(|prompt| !busy.contains(prompt)).collect::<Vec<_>>(),
            "all that are free, once"
        );
        self.offer();
        assert!(
            self.sampler.propose_among(n, self.version, &[]).unwrap().is_empty(),
            "nothing more"
        );
        self.take(n);
    }

    fn offer(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let predict = |&prompt: &i64| {
            let number =
                Stream::of(9, "prediction", &[prompt as u64, u64::from(self.version)]).unit(0);
            if number < 0.1 { f32::NAN } else { number as f32 }
        };
        let predictions: Vec<f32> = pending.iter().map(predict).collect();
        self.sampler.offer(&pending, &predictions, self.version).unwrap();
    }

    fn take(&mut self, n: usize) {
        let draws = self.sampler.take(n, self.version);
        self.pending.clear();
        self.issued.extend(draws.iter().map(|draw| draw.draw_id));
        self.note(&draws);
    }

    fn draw_id(&self, place: usize) -> i64 {
        // One place beyond the draws made stands for an id that was never issued.
        self.issued.get(place % (self.issued.len() + 1)).map_or(1_000_000, |&id| id as i64)
    }

    fn observe(&mut self, place: usize, seed: u64) {
        let stream = Stream::new(seed);
        let reward = |counter: u64| match stream.below(counter, 8) {
            0 => f32::NAN,
            bits => (bits % 2) as f32,
        };
        let unknown = stream.below(99, 6) == 0;
        let rewards: Vec<f32> =
            (0..4).map(|counter| if unknown { f32::NAN } else { reward(counter) }).collect();
        let version = self.version.saturating_sub(stream.below(7, 3) as u32);
        let id = self.draw_id(place);
        let observed = self
            .sampler
            .observe(&[id], &rewards, [1, 4], &[stream.unit(5) as f32], version)
            .unwrap();
        assert_eq!(
            observed[0].draw.is_some(),
            matches!(observed[0].status, Status::Labelled | Status::Unknown)
        );
        self.note(&observed);
    }
}

pub fn build(ids: &[u64], settings: &Settings) -> Sampler {
    let sources = (0..ids.len() as u32).map(|position| position % 2).collect();
    Sampler::new(ids.to_vec(), sources, settings.clone()).unwrap()
}
