//! Laws that hold whatever the caller does.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Caller, Op, ops, settings};
use depo_sampler::Sampler;
use proptest::prelude::*;

fn total(sampler: &Sampler, name: &str) -> u64 {
    sampler.counters().collect::<BTreeMap<_, _>>()[name]
}

fn check(caller: &Caller) -> Result<(), TestCaseError> {
    let in_flight: Vec<u32> = caller.sampler.in_flight().map(|draw| draw.prompt).collect();
    let distinct: BTreeSet<u32> = in_flight.iter().copied().collect();
    prop_assert_eq!(distinct.len(), in_flight.len(), "a prompt is in flight twice");
    for &prompt in &caller.pending {
        prop_assert!(
            !distinct.contains(&(prompt as u32)),
            "prompt {} is proposed while in flight",
            prompt
        );
    }
    let pending: BTreeSet<i64> = caller.pending.iter().copied().collect();
    prop_assert_eq!(pending.len(), caller.pending.len(), "a prompt is proposed twice");
    for draw in caller.sampler.in_flight() {
        prop_assert!(draw.admission > 0.0 && draw.admission <= 1.0);
        prop_assert!((0.0..=1.0).contains(&draw.p_informative));
    }
    let kinds = ["drawn_selected", "drawn_warmup", "drawn_explore", "drawn_reprobe", "drawn_fill"];
    let drawn: u64 = kinds.iter().map(|kind| total(&caller.sampler, kind)).sum();
    let answered: u64 =
        ["labelled", "unknown", "released"].iter().map(|name| total(&caller.sampler, name)).sum();
    prop_assert_eq!(drawn, caller.issued.len() as u64);
    prop_assert_eq!(drawn, answered + in_flight.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn bookkeeping_holds_after_every_call(
        prompts in 0..40_usize, settings in settings(), ops in ops(), reload_before in 0..50_usize,
    ) {
        let mut caller = Caller::new(prompts, settings);
        for (position, op) in ops.iter().enumerate() {
            if position == reload_before {
                caller.reload();
            }
            caller.apply(op);
            check(&caller)?;
        }
    }

    #[test]
    fn a_batch_is_full_unless_the_pool_is_dry(
        prompts in 0..40_usize, settings in settings(), ops in ops(), n in 0..50_usize,
    ) {
        let mut caller = Caller::new(prompts, settings);
        caller.apply_all(&ops);
        caller.apply(&Op::Take(0));
        let free = prompts - caller.sampler.in_flight().count();
        let before = caller.issued.len();
        caller.apply(&Op::Batch(n));
        let group_size = caller.settings.group_size as u32;
        let is_full = |id: &u64| {
            caller
                .sampler
                .in_flight()
                .any(|draw| draw.draw_id == *id && draw.n_rollouts == group_size)
        };
        let (drawn, full) = (
            caller.issued.len() - before,
            caller.issued[before..].iter().filter(|id| is_full(id)).count(),
        );
        prop_assert!(full <= n && drawn >= n.min(free), "{} draws, {} of full groups", drawn, full);
        prop_assert!(caller.settings.max_age > 0 || drawn == n.min(free));
    }

    #[test]
    fn the_same_calls_give_the_same_answers(
        prompts in 1..40_usize,
        settings in settings(),
        ops in ops(),
    ) {
        let mut first = Caller::new(prompts, settings.clone());
        let mut second = Caller::new(prompts, settings);
        for op in &ops {
            first.apply(op);
            second.apply(op);
        }
        prop_assert_eq!(first.log, second.log);
    }

    #[test]
    fn wrong_arguments_change_nothing(
        prompts in 1..20_usize,
        settings in settings(),
        ops in ops(),
    ) {
        let mut caller = Caller::new(prompts, settings);
        caller.apply_all(&ops);
        let before = format!("{:?}", caller.sampler.state());
        let outside = prompts as i64;
        let id = caller.issued.last().map_or(0, |&id| id as i64);
        let sampler = &mut caller.sampler;
        prop_assert!(sampler.offer(&[outside], &[0.5], 99).is_err());
        prop_assert!(
            sampler.offer(&caller.pending, &vec![1.5; caller.pending.len() + 1], 99).is_err()
        );
        prop_assert!(
            sampler.observe(&[id], &[1.0, 0.0, f32::INFINITY, 1.0], [1, 4], &[0.5], 99).is_err()
        );
        prop_assert!(sampler.observe(&[id], &[1.0, 0.0], [1, 2], &[0.5], 99).is_err());
        prop_assert!(sampler.observe(&[id], &[1.0; 4], [1, 4], &[-0.5], 99).is_err());
        prop_assert!(sampler.beliefs(&[-1], &[0.5], 99).is_err());
        prop_assert!(sampler.wanted(&[0], &[7.0], 99).is_err());
        prop_assert_eq!(format!("{:?}", sampler.state()), before);
    }

    #[test]
    fn a_prompt_named_twice_is_told_by_its_first_repetition(
        settings in settings(),
        among in prop::collection::vec(0..12_i64, 0..12),
    ) {
        let mut sampler = Caller::new(12, settings).sampler;
        let again = (0..among.len()).find(|&position| among[..position].contains(&among[position]));
        let message = sampler.propose_among(1, 0, &among).err().map(|error| error.to_string());
        let expected = again.map(|position| format!("among: got prompt {} again at position \
            {position}, expected distinct prompts", among[position]));
        prop_assert_eq!(message, expected);
    }
}
