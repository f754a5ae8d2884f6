//! Successes and failures per item that fade with the age of what they count, for millions of items
//! of which a few are updated at a time.

use std::hint::black_box;

use crate::memory::filled;
use crate::portable::power;

/// Items that are updated side by side, so that their cache misses overlap.
const ABREAST: usize = 256;

/// Ages whose factor is looked up.
const TABLED: u32 = 256;

/// All that an update touches of an item lies together, and in one cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(align(16))]
struct Record {
    successes: f32,
    failures: f32,
    version: u32,
}

/// Counts of items 0..len, each as of the newest version at which it was updated.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscountedCounts {
    records: Vec<Record>,
    powers: Powers,
}

/// Powers of a decay.
#[derive(Debug, Clone, PartialEq)]
struct Powers {
    decay: f64,
    tabled: Vec<f32>,
}

impl Powers {
    fn new(decay: f64) -> Self {
        Self { decay, tabled: (0..TABLED).map(|age| power(decay, age) as f32).collect() }
    }

    fn of(&self, age: u32) -> f32 {
        self.tabled.get(age as usize).copied().unwrap_or_else(|| power(self.decay, age) as f32)
    }
}

impl DiscountedCounts {
    /// No counts; what is counted keeps `decay`, within 0..=1, of its weight from one version to
    /// the next.
    pub fn new(len: usize, decay: f64) -> Self {
        Self { records: filled(Record::default(), len), powers: Powers::new(decay) }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no item at all.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds successes and failures of `version` to some items, one after another. What is older
    /// than an item's newest fades as if it had come in time.
    ///
    /// # Panics
    /// There is no such item.
    pub fn add(&mut self, items: &[i64], successes: &[f32], rollouts: &[f32], version: u32) {
        let Self { records, powers } = self;
        let records: &mut [Record] = records;
        let chunks =
            items.chunks(ABREAST).zip(successes.chunks(ABREAST)).zip(rollouts.chunks(ABREAST));
        for ((items, successes), rollouts) in chunks {
            // Asks for all the cache lines before it works on the first.
            for &item in items {
                black_box(records[item as usize].version);
            }
            for ((&item, &successes), &rollouts) in items.iter().zip(successes).zip(rollouts) {
                let record = &mut records[item as usize];
                if record.version <= version {
                    let kept = powers.of(version - record.version);
                    record.successes = record.successes * kept + successes;
                    record.failures = record.failures * kept + (rollouts - successes);
                    record.version = version;
                } else {
                    let taken = powers.of(record.version - version);
                    record.successes += successes * taken;
                    record.failures += (rollouts - successes) * taken;
                }
            }
        }
    }

    /// [successes, failures] of an item, faded to `version` if that is newer than it.
    ///
    /// # Panics
    /// There is no such item.
    pub fn at(&self, item: usize, version: u32) -> [f32; 2] {
        let record = self.records[item];
        let factor = self.powers.of(version.saturating_sub(record.version));
        [record.successes * factor, record.failures * factor]
    }

    /// Successes, failures and versions of all items.
    pub fn columns(&self) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let column = |field: fn(&Record) -> f32| self.records.iter().map(field).collect();
        (
            column(|record| record.successes),
            column(|record| record.failures),
            self.records.iter().map(|record| record.version).collect(),
        )
    }

    /// Takes over what `columns` returned of equally many items.
    pub fn load(&mut self, successes: &[f32], failures: &[f32], versions: &[u32]) {
        for (((record, &successes), &failures), &version) in
            self.records.iter_mut().zip(successes).zip(failures).zip(versions)
        {
            *record = Record { successes, failures, version };
        }
    }
}
