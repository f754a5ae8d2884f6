//! A snapshot continues bit for bit, and whatever happens to a file while it is written, what is
//! loaded is one of the last two snapshots, whole.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

#[allow(dead_code, reason = "each test file uses a part")]
mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use common::{Caller, Op, build, ops, settings};
use depo_sampler::Settings;
use depo_sampler::snapshot::{Array, Image, Slots};
use proptest::prelude::*;
use tempfile::TempDir;

/// A caller whose sampler is saved in slots.
struct Saver {
    caller: Caller,
    directory: TempDir,
    image: Image,
    slots: Slots,
}

impl Saver {
    fn new(prompts: usize, settings: Settings) -> Self {
        let directory = TempDir::new().unwrap();
        let slots = Slots::open(directory.path().to_owned()).unwrap();
        Self { caller: Caller::new(prompts, settings), directory, image: Image::default(), slots }
    }

    fn save(&mut self) -> u64 {
        self.image.capture(&self.caller.sampler);
        let array = Array {
            name: "rows".into(),
            dtype: "I16".into(),
            shape: vec![1, 3],
            bytes: vec![1, 2, 3, 4, 5, 6],
        };
        self.image.attach([("content".to_owned(), "\"quoted\"".to_owned())], [array]);
        self.slots.write(&self.image).unwrap()
    }

    /// Takes a step and saves, so often; returns the states.
    fn save_steps(&mut self, steps: usize) -> Vec<String> {
        let step = |saver: &mut Self| {
            saver.caller.apply_all(&[
                Op::Batch(5),
                Op::Observe(saver.caller.issued.len(), 3),
                Op::Step(1),
            ]);
            saver.save();
            format!("{:?}", saver.caller.sampler.state())
        };
        (0..steps).map(|_| step(self)).collect()
    }

    fn reload(&mut self) {
        let pool = self.caller.sampler.pool();
        let saved = Slots::open(self.directory.path().to_owned())
            .unwrap()
            .read(Some(pool))
            .unwrap()
            .unwrap();
        assert_eq!(
            (saved.texts["content"].as_str(), saved.arrays[0].bytes.as_slice()),
            ("\"quoted\"", &[1, 2, 3, 4, 5, 6][..])
        );
        self.caller.sampler = build(&self.caller.ids, &self.caller.settings);
        saved.load(&mut self.caller.sampler, true).unwrap();
    }

    fn file(&self, slot: &str) -> PathBuf {
        self.directory.path().join(slot).with_extension("safetensors")
    }
}

/// Number and state of what a new process would load, with the ids known or read.
fn loaded(directory: &Path, like: &Caller, known: bool) -> (u64, String) {
    let mut sampler = build(&like.ids, &like.settings);
    let pool = sampler.pool().clone();
    let saved =
        Slots::open(directory.to_owned()).unwrap().read(known.then_some(&pool)).unwrap().unwrap();
    let generation = saved.generation;
    saved.load(&mut sampler, true).unwrap();
    (generation, format!("{:?}", sampler.state()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn a_run_that_is_loaded_after_every_step_equals_one_in_one_piece(prompts in 1..40_usize, settings in settings(), ops in ops()) {
        let mut whole = Caller::new(prompts, settings.clone());
        let mut split = Saver::new(prompts, settings);
        for op in &ops {
            whole.apply(op);
            split.save();
            split.reload();
            split.caller.apply(op);
        }
        prop_assert_eq!(&whole.log, &split.caller.log);
        prop_assert_eq!(format!("{:?}", whole.sampler.state()), format!("{:?}", split.caller.sampler.state()));
    }

    #[test]
    fn another_pool_gets_what_a_state_gives_it(prompts in 2..30_usize, settings in settings(), ops in ops(), drop in 0..5_usize, add in 0..5_u64) {
        let mut saver = Saver::new(prompts, settings.clone());
        saver.caller.apply_all(&ops);
        saver.save();
        let ids: Vec<u64> = (0..add).chain(saver.caller.ids[drop.min(prompts)..].iter().rev().copied()).collect();
        let [mut by_snapshot, mut by_state] = [build(&ids, &settings), build(&ids, &settings)];
        let saved = saver.slots.read(Some(by_snapshot.pool())).unwrap().unwrap();
        prop_assert_eq!(saved.load(&mut by_snapshot, false), by_state.load_state(saver.caller.sampler.state(), false));
        prop_assert_eq!(format!("{:?}", by_snapshot.state()), format!("{:?}", by_state.state()));
    }

    #[test]
    fn other_files_are_refused(bytes in prop::collection::vec(any::<u8>(), 8..300), len in 0..400_u64) {
        let saver = Saver::new(3, common_settings());
        let header = [&len.to_le_bytes()[..], &bytes].concat();
        fs::write(saver.file("a"), header).unwrap();
        let read = Slots::open(saver.directory.path().to_owned()).unwrap().read(None);
        prop_assert!(read.map_or_else(|error| error.kind() == ErrorKind::InvalidData, |saved| saved.is_none() && len == 0));
    }
}

/// The file after a crash: the arrays are written first, from the front, and then the header.
fn torn(old: &[u8], new: &[u8], header: usize, written: usize) -> Vec<u8> {
    let data = new.len() - header;
    let mut file = old.to_vec();
    file.resize(file.len().max(header + written.min(data)), 0);
    file[header..header + written.min(data)]
        .copy_from_slice(&new[header..header + written.min(data)]);
    if written > data {
        file.truncate(new.len());
        file[..written - data].copy_from_slice(&new[..written - data]);
    }
    file
}

#[test]
fn a_crash_after_any_byte_leaves_the_one_before_or_the_new_one() {
    let mut saver = Saver::new(30, common_settings());
    let states = saver.save_steps(3);
    let new = fs::read(saver.file("a")).unwrap();
    let header = 8 + u64::from_le_bytes(new[..8].try_into().unwrap()) as usize;
    let mut old = Saver::new(30, common_settings());
    old.save_steps(2);
    let before = fs::read(old.file("a")).unwrap();
    for written in 0..=new.len() {
        let file = torn(&before, &new, header, written);
        // Bytes that both have are the same torn or whole; each known and read ids in turn, for
        // time.
        let is_new = file == new;
        if written % 13 != 0 && written + 100 < new.len() {
            continue;
        }
        fs::write(old.file("a"), &file).unwrap();
        let (generation, state) = loaded(old.directory.path(), &old.caller, written % 2 == 0);
        assert_eq!(
            (generation, state == states[generation as usize - 1]),
            (if is_new { 3 } else { 2 }, true),
            "{written} of {}",
            new.len()
        );
        let kept = fs::read(old.file("b")).unwrap();
        let mut slots = Slots::open(old.directory.path().to_owned()).unwrap();
        old.image.capture(&old.caller.sampler);
        if !is_new {
            slots.write(&old.image).unwrap();
            assert_eq!(
                fs::read(old.file("b")).unwrap(),
                kept,
                "the one that is whole must not be overwritten"
            );
        }
    }
}

#[test]
fn damage_anywhere_is_seen() {
    let mut saver = Saver::new(30, common_settings());
    let states = saver.save_steps(4);
    let newest = saver.file("b");
    let whole = fs::read(&newest).unwrap();
    for place in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        for file in [flipped, whole[..place].to_vec()] {
            fs::write(&newest, file).unwrap();
            let (generation, state) = loaded(saver.directory.path(), &saver.caller, false);
            assert_eq!((generation, &state), (3, &states[2]), "byte {place}");
        }
    }
    // Both damaged: an error, and the next save starts anew.
    fs::write(saver.file("a"), &whole[..whole.len() - 1]).unwrap();
    let mut slots = Slots::open(saver.directory.path().to_owned()).unwrap();
    assert_eq!(slots.read(None).unwrap_err().kind(), ErrorKind::InvalidData);
    saver.slots = slots;
    assert_eq!(saver.save(), 5);
    assert_eq!(loaded(saver.directory.path(), &saver.caller, false), (5, states[3].clone()));
}

#[test]
fn a_power_cut_that_keeps_a_header_without_its_arrays_does_not_cost_the_other_one() {
    let mut saver = Saver::new(30, common_settings());
    let states = saver.save_steps(3);
    let mut file = fs::read(saver.file("a")).unwrap();
    *file.last_mut().unwrap() ^= 1;
    fs::write(saver.file("a"), file).unwrap();
    saver.slots = Slots::open(saver.directory.path().to_owned()).unwrap();
    let kept = fs::read(saver.file("b")).unwrap();
    assert_eq!(saver.save(), 4);
    assert_eq!(fs::read(saver.file("b")).unwrap(), kept);
    assert_eq!(loaded(saver.directory.path(), &saver.caller, true), (4, states[2].clone()));
}

#[test]
fn a_first_save_that_was_cut_is_none() {
    let mut saver = Saver::new(30, common_settings());
    assert!(saver.slots.read(None).unwrap().is_none());
    for zeros in [0, 3, 9000] {
        fs::write(saver.file("a"), vec![0; zeros]).unwrap();
        assert!(saver.slots.read(None).unwrap().is_none());
    }
    assert_eq!(saver.save(), 1);
}

#[test]
fn ids_are_written_again_where_another_pool_was_saved() {
    let mut saver = Saver::new(30, common_settings());
    saver.save_steps(2);
    saver.caller = Caller::new(30, Settings { seed: 1, ..common_settings() });
    saver.caller.ids.reverse();
    saver.caller.sampler = build(&saver.caller.ids, &saver.caller.settings);
    saver.save();
    let mut slots = Slots::open(saver.directory.path().to_owned()).unwrap();
    let newest = slots.read(None).unwrap().unwrap();
    assert_eq!(newest.load(&mut saver.caller.sampler, true).unwrap().matched, 30);
}

fn common_settings() -> Settings {
    Settings { group_size: 4, source_floors: vec![0.0, 0.0], warmup_steps: 0, ..Default::default() }
}
