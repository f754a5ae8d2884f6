//! Saving and loading between any two calls changes nothing; loading into another pool keeps what
//! is known of each prompt.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

mod common;

use common::{Caller, Op, build, ops, settings, split_equals_whole};
use depo_sampler::Error;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_split_run_equals_a_run_in_one_piece(
        prompts in 1..40_usize,
        settings in settings(),
        ops in ops(),
    ) {
        let mut whole = Caller::new(prompts, settings.clone());
        let mut split = Caller::new(prompts, settings);
        split_equals_whole(&mut whole, &mut split, &ops)?;
    }

    #[test]
    fn beliefs_and_open_draws_follow_their_ids_into_another_pool(
        prompts in 2..30_usize,
        settings in settings(),
        ops in ops(),
        drop in 0..5_usize,
        add in 0..5_u64,
    ) {
        let mut old = Caller::new(prompts, settings.clone());
        old.apply_all(&ops);
        let kept = &old.ids[drop.min(prompts)..];
        let ids: Vec<u64> = (0..add).chain(kept.iter().rev().copied()).collect();
        let mut new = build(&ids, &settings);
        let report = new.load_state(old.sampler.state(), false).unwrap();
        prop_assert_eq!(
            (report.matched, report.missing, report.added),
            (kept.len(), prompts - kept.len(), add as usize)
        );

        let old_index =
            |id: u64| old.ids.iter().position(|&other| other == id).map(|index| index as i64);
        for (index, &id) in ids.iter().enumerate() {
            let Some(before) = old_index(id) else { continue };
            let then = old.sampler.beliefs(&[before], &[f32::NAN], old.version).unwrap();
            let now = new.beliefs(&[index as i64], &[f32::NAN], old.version).unwrap();
            prop_assert_eq!(then, now);
        }
        let open = |sampler: &depo_sampler::Sampler, ids: &[u64]| -> Vec<(u64, u64)> {
            sampler.in_flight().map(|draw| (draw.draw_id, ids[draw.prompt as usize])).collect()
        };
        let mut expected = open(&old.sampler, &old.ids);
        expected.retain(|(_, id)| ids.contains(id));
        prop_assert_eq!(open(&new, &ids), expected);
    }
}

#[test]
fn proposed_candidates_of_an_aborted_batch_head_the_next_one() {
    let mut caller = Caller::new(30, common_settings());
    let proposed = caller.sampler.propose(4, 10).unwrap();
    assert_eq!(caller.sampler.propose(4, 10), Err(Error::OfferMissing { pending: proposed.len() }));
    caller.reload();
    assert_eq!(caller.sampler.propose(4, 11).unwrap(), proposed);
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut caller = Caller::new(20, common_settings());
    caller.apply_all(&[Op::Batch(5), Op::Observe(0, 3), Op::Propose(3)]);
    let before = format!("{:?}", caller.sampler.state());
    let good = caller.sampler.state();
    for name in good.keys() {
        let mut missing = good.clone();
        missing.remove(name);
        assert_eq!(
            caller.sampler.load_state(missing, true),
            Err(Error::StateMissing { name: name.clone() })
        );
        let mut retyped = good.clone();
        retyped.insert(name.clone(), vec![1_u8, 2, 3].into());
        assert!(caller.sampler.load_state(retyped, true).unwrap_err().is_state(), "{name}");
    }
    let mut superfluous = good.clone();
    superfluous.insert("extra".into(), 1_u64.into());
    assert_eq!(
        caller.sampler.load_state(superfluous, true),
        Err(Error::StateSuperfluous { name: "extra".into() })
    );
    let mut twice = good.clone();
    twice.insert("buffer.pending".into(), vec![0_u32; 3].into());
    assert!(caller.sampler.load_state(twice, true).unwrap_err().is_state());
    let mut outside = good;
    outside.insert("buffer.pending".into(), vec![20_u32, 1, 2].into());
    assert!(caller.sampler.load_state(outside, true).unwrap_err().is_state());
    assert_eq!(format!("{:?}", caller.sampler.state()), before);
    let other = Caller::new(21, common_settings());
    assert!(caller.sampler.load_state(other.sampler.state(), true).unwrap_err().is_state());
}

fn common_settings() -> depo_sampler::Settings {
    depo_sampler::Settings {
        group_size: 4,
        source_floors: vec![0.0, 0.0],
        warmup_steps: 0,
        ..Default::default()
    }
}
