//! Advantages of eight groups at a time, one lane per group: every group is summed in the order of
//! its rewards, as the plain loop sums it, and nothing is fused, so that the bits are the same.

#[allow(
    clippy::wildcard_imports,
    reason = "the name of every intrinsic says where it comes from"
)]
use std::arch::x86_64::*;

use super::binary::{self, Masks, Pair};
use super::{AdvantageOptions, Advantages};

/// Groups at a time.
const LANES: usize = 8;

/// Eight doubles.
type Doubles = [__m256d; 2];

/// Fills in the groups of `output` that make up whole blocks of eight; returns how many. Advantages
/// must be 0 before.
#[target_feature(enable = "avx2")]
pub(super) fn fill(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
    output: &mut Advantages,
) -> usize {
    let mut columns = vec![[0.0; LANES]; group_size];
    let blocks = rewards
        .chunks_exact(LANES * group_size)
        .zip(output.advantages.chunks_exact_mut(LANES * group_size));
    let verdicts = output
        .informative
        .as_chunks_mut::<LANES>()
        .0
        .iter_mut()
        .zip(output.means.as_chunks_mut::<LANES>().0);
    for ((rows, advantages), (informative, means)) in blocks.zip(verdicts) {
        transpose(rows, &mut columns);
        let summary = Summary::of(&columns);
        *means = store(singles(summary.means));
        let mask = greater(summary.spread, options.tolerance);
        let bits = _mm256_movemask_ps(mask);
        if bits != 0 {
            let factors = if options.scale_by_std {
                summary.factors(&columns, options)
            } else {
                [_mm256_set1_pd(1.0); 2]
            };
            scale(&mut columns, summary.means, factors, mask);
            transpose_back(&columns, advantages);
        }
        *informative = [0, 1, 2, 3, 4, 5, 6, 7].map(|lane| bits >> lane & 1 == 1);
    }
    rewards.len() / group_size / LANES * LANES
}

/// `binary::advantages`, with eight rewards compared at a time.
#[target_feature(enable = "avx2,popcnt")]
pub(super) fn of_two_values(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
) -> Option<Advantages> {
    binary::advantages(rewards, group_size, options, |rewards, values| masks(rewards, values))
}

#[target_feature(enable = "avx2")]
fn masks(rewards: &[f32; LANES], [low, high]: Pair<f32>) -> Masks {
    let rewards = load(rewards);
    let [low, high] =
        [low, high].map(|value| _mm256_cmp_ps::<_CMP_EQ_OQ>(rewards, _mm256_set1_ps(value)));
    [low, high, _mm256_cmp_ps::<_CMP_UNORD_Q>(rewards, rewards)]
        .map(|mask| _mm256_movemask_ps(mask).cast_unsigned())
}

/// What the known rewards of eight groups say.
struct Summary {
    known: Doubles,
    means: Doubles,
    spread: Doubles,
}

impl Summary {
    #[target_feature(enable = "avx2")]
    fn of(columns: &[[f32; LANES]]) -> Self {
        let (mut known, mut sums) = (_mm256_setzero_si256(), [_mm256_setzero_pd(); 2]);
        let (mut lowest, mut highest) =
            (_mm256_set1_ps(f32::INFINITY), _mm256_set1_ps(f32::NEG_INFINITY));
        for column in columns {
            let rewards = load(column);
            let is_known = _mm256_cmp_ps::<_CMP_ORD_Q>(rewards, rewards);
            // A mask of ones is the number -1.
            known = _mm256_sub_epi32(known, _mm256_castps_si256(is_known));
            sums = add(sums, doubles(_mm256_and_ps(is_known, rewards)));
            // Of an unknown reward and a number both give the second argument.
            lowest = _mm256_min_ps(rewards, lowest);
            highest = _mm256_max_ps(rewards, highest);
        }
        let known = doubles(_mm256_cvtepi32_ps(known));
        Self {
            means: divide(sums, known),
            known,
            spread: subtract(doubles(highest), doubles(lowest)),
        }
    }

    /// What is 1 divided by standard deviations plus epsilon.
    #[target_feature(enable = "avx2")]
    fn factors(&self, columns: &[[f32; LANES]], options: &AdvantageOptions) -> Doubles {
        let mut squares = [_mm256_setzero_pd(); 2];
        for column in columns {
            let deviations = subtract(doubles(load(column)), self.means);
            let products = multiply(deviations, deviations);
            // The greater of an unknown number and 0 is 0.
            squares =
                add(squares, products.map(|product| _mm256_max_pd(product, _mm256_setzero_pd())));
        }
        let variances =
            divide(squares, subtract(self.known, [_mm256_set1_pd(options.ddof as f64); 2]));
        let deviations = add(
            variances.map(|variance| _mm256_sqrt_pd(variance)),
            [_mm256_set1_pd(options.epsilon); 2],
        );
        divide([_mm256_set1_pd(1.0); 2], deviations)
    }
}

/// Turns rewards into advantages: 0 where they are unknown and in groups that are not informative.
#[target_feature(enable = "avx2")]
fn scale(columns: &mut [[f32; LANES]], means: Doubles, factors: Doubles, informative: __m256) {
    for column in columns {
        let rewards = load(column);
        let advantages = singles(multiply(subtract(doubles(rewards), means), factors));
        let counts = _mm256_and_ps(_mm256_cmp_ps::<_CMP_ORD_Q>(rewards, rewards), informative);
        *column = store(_mm256_and_ps(advantages, counts));
    }
}

/// Eight rows into columns.
#[target_feature(enable = "avx2")]
fn transpose(rows: &[f32], columns: &mut [[f32; LANES]]) {
    let group_size = columns.len();
    let (tiles, rest) = columns.as_chunks_mut::<LANES>();
    for (index, tile) in tiles.iter_mut().enumerate() {
        let part = |lane: usize| {
            rows[lane * group_size + index * LANES..].first_chunk().expect("eight rewards are left")
        };
        let transposed = transposed(std::array::from_fn(|lane| *part(lane)));
        *tile = transposed;
    }
    let start = group_size - rest.len();
    for (offset, column) in rest.iter_mut().enumerate() {
        *column = std::array::from_fn(|lane| rows[lane * group_size + start + offset]);
    }
}

/// Columns into eight rows.
#[target_feature(enable = "avx2")]
fn transpose_back(columns: &[[f32; LANES]], rows: &mut [f32]) {
    let group_size = columns.len();
    let (tiles, rest) = columns.as_chunks::<LANES>();
    for (index, tile) in tiles.iter().enumerate() {
        for (lane, part) in transposed(*tile).iter().enumerate() {
            rows[lane * group_size + index * LANES..][..LANES].copy_from_slice(part);
        }
    }
    let start = group_size - rest.len();
    for (offset, column) in rest.iter().enumerate() {
        for (lane, &advantage) in column.iter().enumerate() {
            rows[lane * group_size + start + offset] = advantage;
        }
    }
}

#[target_feature(enable = "avx2")]
fn transposed(tile: [[f32; LANES]; LANES]) -> [[f32; LANES]; LANES] {
    let (mut pairs, mut quads, mut result) =
        ([_mm256_setzero_ps(); LANES], [_mm256_setzero_ps(); LANES], tile);
    for pair in [0, 2, 4, 6] {
        let (even, odd) = (load(&tile[pair]), load(&tile[pair + 1]));
        (pairs[pair], pairs[pair + 1]) =
            (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
    }
    for half in [0, 4] {
        for side in [0, 1] {
            let (first, second) = (pairs[half + side], pairs[half + 2 + side]);
            quads[half + 2 * side] = _mm256_shuffle_ps::<0b01_00_01_00>(first, second);
            quads[half + 2 * side + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(first, second);
        }
    }
    for column in 0..4 {
        let (upper, lower) = (quads[column], quads[column + 4]);
        result[column] = store(_mm256_permute2f128_ps::<0x20>(upper, lower));
        result[column + 4] = store(_mm256_permute2f128_ps::<0x31>(upper, lower));
    }
    result
}

#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "eight numbers are read, and there are eight")]
fn load(numbers: &[f32; LANES]) -> __m256 {
    unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "eight numbers are written, and there is room for eight")]
fn store(numbers: __m256) -> [f32; LANES] {
    let mut stored = [0.0; LANES];
    unsafe { _mm256_storeu_ps(stored.as_mut_ptr(), numbers) };
    stored
}

#[target_feature(enable = "avx2")]
fn doubles(numbers: __m256) -> Doubles {
    [
        _mm256_cvtps_pd(_mm256_castps256_ps128(numbers)),
        _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(numbers)),
    ]
}

#[target_feature(enable = "avx2")]
fn singles(numbers: Doubles) -> __m256 {
    _mm256_insertf128_ps::<1>(
        _mm256_castps128_ps256(_mm256_cvtpd_ps(numbers[0])),
        _mm256_cvtpd_ps(numbers[1]),
    )
}

#[target_feature(enable = "avx2")]
fn add(a: Doubles, b: Doubles) -> Doubles {
    [_mm256_add_pd(a[0], b[0]), _mm256_add_pd(a[1], b[1])]
}

#[target_feature(enable = "avx2")]
fn subtract(a: Doubles, b: Doubles) -> Doubles {
    [_mm256_sub_pd(a[0], b[0]), _mm256_sub_pd(a[1], b[1])]
}

#[target_feature(enable = "avx2")]
fn multiply(a: Doubles, b: Doubles) -> Doubles {
    [_mm256_mul_pd(a[0], b[0]), _mm256_mul_pd(a[1], b[1])]
}

#[target_feature(enable = "avx2")]
fn divide(a: Doubles, b: Doubles) -> Doubles {
    [_mm256_div_pd(a[0], b[0]), _mm256_div_pd(a[1], b[1])]
}

/// Ones where a number is greater than the bound.
#[target_feature(enable = "avx2")]
fn greater(numbers: Doubles, bound: f64) -> __m256 {
    let bound = _mm256_set1_pd(bound);
    let [low, high] = [
        _mm256_cmp_pd::<_CMP_GT_OQ>(numbers[0], bound),
        _mm256_cmp_pd::<_CMP_GT_OQ>(numbers[1], bound),
    ];
    // The halves of each 64 bits are equal: one of them is taken, then the four quarters are put
    // into order.
    let halves = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(
        _mm256_castpd_ps(low),
        _mm256_castpd_ps(high),
    ));
    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(halves))
}
