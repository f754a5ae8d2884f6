//! Loops for the vector instructions that the processor has.

#![allow(clippy::inline_always, reason = "work is compiled for the processor of its caller")]

/// Does `work` with AVX2 where the processor has it. The bits are the same: the arithmetic and its
/// order do not change, and nothing is fused.
///
/// Only what is compiled into `work` becomes faster: mark the closure, and what it calls in its
/// loops, `#[inline(always)]`.
#[inline(always)]
pub fn wide<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the processor has AVX2")]
        return unsafe { on_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn on_avx2<T>(work: impl FnOnce() -> T) -> T {
    work()
}
