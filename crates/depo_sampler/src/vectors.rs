//! Loops compiled twice: for any processor, and for one with AVX2, which takes four doubles at a
//! time. Both do the same arithmetic in the same order and fuse nothing, so that the bits are the
//! same.

/// Whether this processor takes four doubles at a time; all that do, also count bits.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    #[cfg(test)]
    if tests::PLAIN.get() {
        return false;
    }
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")
}

/// Defines a function that runs as fast as the processor can. What it calls in a loop should be
/// marked `#[inline(always)]`, or it is compiled once.
macro_rules! vectorised {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),+ $(,)?) -> $output:ty
        $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),+) -> $output {
            #[allow(clippy::inline_always, reason = "compiled for the processor of its caller")]
            #[inline(always)]
            fn plain($($argument: $type),+) -> $output $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn four_at_a_time($($argument: $type),+) -> $output {
                plain($($argument),+)
            }

            #[cfg(target_arch = "x86_64")]
            if crate::vectors::has_avx2() {
                #[allow(unsafe_code, reason = "the processor was asked whether it has the \
                    instructions")]
                return unsafe { four_at_a_time($($argument),+) };
            }
            plain($($argument),+)
        }
    };
}
pub(crate) use vectorised;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        pub(super) static PLAIN: Cell<bool> = const { Cell::new(false) };
    }

    /// Does the work as a processor without vector instructions would.
    pub(crate) fn plainly<R>(work: impl FnOnce() -> R) -> R {
        PLAIN.set(true);
        let result = work();
        PLAIN.set(false);
        result
    }
}
