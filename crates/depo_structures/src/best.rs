//! The best few of many in one pass, without sorting them.

use std::cmp::Reverse;

/// Candidates are kept until there are so many times the number wanted; then the worse are dropped.
const SLACK: usize = 4;

/// Fewer are not worth dropping.
const LEAST_ROOM: usize = 1024;

/// Scores that are compared with the bar at a time.
const CHUNK: usize = 32;

/// Positions of the `count` greatest keys, best first; of equal keys the earlier one is better.
/// Items whose key is NaN are never among them.
///
/// One pass: a bar rises to the worst key that can still be among the best, and few keys pass it.
pub fn best(scores: &[f32], count: usize, key: impl Fn(f32) -> f32) -> Vec<u32> {
    if count == 0 {
        return vec![];
    }
    let room = count.saturating_mul(SLACK).max(LEAST_ROOM);
    let (mut kept, mut bar) = (Vec::new(), None);
    for (chunk, start) in scores.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let passes = |key: f32| bar.map_or(!key.is_nan(), |bar| key > bar);
        // A loop without an exit compiles to vector instructions.
        if !chunk.iter().fold(false, |any, &score| any | passes(key(score))) {
            continue;
        }
        let keys = chunk.iter().map(|&score| key(score)).zip(start..);
        kept.extend(
            keys.filter(|&(key, _)| passes(key)).map(|(key, position)| rank(key, position)),
        );
        if kept.len() > room {
            let (_, worst, _) = kept.select_nth_unstable_by_key(count - 1, |&rank| Reverse(rank));
            bar = Some(key(scores[position(*worst) as usize]));
            kept.truncate(count);
        }
    }
    kept.sort_unstable_by_key(|&rank| Reverse(rank));
    kept.into_iter().take(count).map(position).collect()
}

/// A number that is greater for greater keys, and of equal keys for the earlier position; comparing
/// integers is cheaper.
fn rank(key: f32, position: u32) -> u64 {
    // Adding 0 makes one zero of two.
    let bits = (key + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ascending) << 32 | u64::from(!position)
}

fn position(rank: u64) -> u32 {
    !(rank as u32)
}
