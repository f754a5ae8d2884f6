//! One sampler for many threads. Each call holds the lock by itself: a caller that works between
//! two calls, such as to predict, does not block the others. What belongs together must happen in
//! one call.

#[cfg(not(test))]
use std::sync::Mutex;
use std::sync::PoisonError;

#[cfg(test)]
use loom::sync::Mutex;

use crate::sampler::Sampler;

/// A sampler behind a lock.
pub struct SharedSampler {
    core: Mutex<Sampler>,
}

impl SharedSampler {
    /// Shares a sampler.
    pub fn new(core: Sampler) -> Self {
        Self { core: Mutex::new(core) }
    }

    /// Does some work while no other thread does any. A panic of another thread does not lock the
    /// sampler for good.
    pub fn with<T>(&self, work: impl FnOnce(&mut Sampler) -> T) -> T {
        work(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Every order in which threads can take the lock is tried, up to three preemptions, which is what
/// it takes to break into one call from another.
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sampler::Status;
    use crate::settings::Settings;
    use crate::state::StateMap;

    const GROUP_SIZE: usize = 2;
    const PREEMPTIONS: usize = 3;

    fn sampler() -> Sampler {
        let settings = Settings { group_size: GROUP_SIZE, warmup_steps: 0, ..Settings::default() };
        Sampler::new((0..6).collect(), vec![0; 6], settings).expect("valid settings")
    }

    /// A batch, with each call by itself, as Python does it; ids of its draws.
    fn sample(shared: &SharedSampler, n: usize, version: u32) -> Vec<i64> {
        loop {
            let candidates = shared.with(|core| core.propose(n, version)).expect("all offered");
            if candidates.is_empty() {
                break;
            }
            let candidates: Vec<i64> = candidates.into_iter().map(i64::from).collect();
            shared
                .with(|core| core.offer(&candidates, &vec![0.5; candidates.len()], version))
                .expect("as proposed");
        }
        shared
            .with(|core| core.take(n, version))
            .iter()
            .map(|draw| draw.draw_id.cast_signed())
            .collect()
    }

    /// How many of some draws got a label.
    fn label(shared: &SharedSampler, ids: &[i64]) -> usize {
        let rewards = [1.0, 0.0].repeat(ids.len());
        let observed = shared.with(|core| {
            core.observe(ids, &rewards, [ids.len(), GROUP_SIZE], &vec![0.5; ids.len()], 1)
        });
        observed
            .expect("shapes fit")
            .iter()
            .filter(|observed| observed.status == Status::Labelled)
            .count()
    }

    /// Drawn, labeled, released and in flight.
    fn totals(core: &Sampler) -> [u64; 4] {
        let totals: BTreeMap<&str, u64> = core.counters().collect();
        let drawn = totals
            .iter()
            .filter(|(name, _)| name.starts_with("drawn_"))
            .map(|(_, total)| total)
            .sum();
        [drawn, totals["labelled"], totals["released"], core.in_flight().count() as u64]
    }

    /// What was saved continues: all that was drawn is accounted for, and the next batch can be
    /// drawn.
    fn check_saved(state: StateMap<'static>) {
        let mut core = sampler();
        core.load_state(state, true).expect("a state of the same sampler");
        let [drawn, labelled, released, in_flight] = totals(&core);
        assert_eq!(drawn, labelled + released + in_flight, "a state between two calls");
        let shared = SharedSampler::new(core);
        assert!(!sample(&shared, 1, 2).is_empty(), "six prompts, of which five are out at most");
    }

    fn model(threads: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(threads);
    }

    #[test]
    fn every_draw_counts_once_in_every_order_of_the_threads() {
        model(|| {
            let shared = Arc::new(SharedSampler::new(sampler()));
            let ids = sample(&shared, 3, 0);
            let spawn = |work: Box<dyn FnOnce(&SharedSampler) -> usize>| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared))
            };
            let (first, second) = (ids.clone(), ids.clone());
            // Two producers that share a draw; one of them gives up another that both have.
            let producers = [
                spawn(Box::new(move |shared| label(shared, &first[..2]))),
                spawn(Box::new(move |shared| {
                    label(shared, &second[1..2])
                        + shared.with(|core| core.release(&[second[0], second[2]]))
                })),
            ];
            let drawing = spawn(Box::new(|shared| sample(shared, 2, 1).len()));
            check_saved(shared.with(|core| core.state()));
            let answered: usize =
                producers.into_iter().map(|producer| producer.join().expect("no panic")).sum();
            let drawn = drawing.join().expect("no panic");
            assert_eq!(answered, 3, "each of the three draws was labelled or released, once");
            let [all, labelled, released, in_flight] = shared.with(|core| totals(core));
            assert_eq!(
                (all, labelled + released, in_flight),
                ((3 + drawn) as u64, 3, drawn as u64)
            );
        });
    }

    /// The model can fail: it detects a thread that checks first and acts in a second call.
    #[test]
    #[should_panic(expected = "released by both")]
    fn to_check_and_then_to_act_is_found_out() {
        model(|| {
            let shared = Arc::new(SharedSampler::new(sampler()));
            let id = sample(&shared, 1, 0)[0];
            let release = move |shared: &SharedSampler| {
                let is_open = shared
                    .with(|core| core.in_flight().any(|draw| draw.draw_id.cast_signed() == id));
                if is_open {
                    shared.with(|core| core.release(&[id]));
                }
                is_open
            };
            let other = thread::spawn({
                let shared = Arc::clone(&shared);
                move || release(&shared)
            });
            let both = release(&shared) && other.join().expect("no panic");
            assert!(!both, "released by both");
        });
    }
}
