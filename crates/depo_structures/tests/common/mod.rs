//! What the tests share.

/// Random words: the k-th output of `SplitMix64` from `seed`.
pub fn words(seed: u64) -> impl Fn(u64) -> u64 {
    move |counter| {
        let mut word =
            seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}
