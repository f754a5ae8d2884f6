//! `depo_structures::vectors`, which a test can switch off.

#![allow(clippy::inline_always, reason = "work is compiled for the processor of its caller")]

/// Does `work` with the vector instructions that the processor has; the bits are the same.
#[inline(always)]
pub(crate) fn wide<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(test)]
    if tests::PLAIN.get() {
        return work();
    }
    depo_structures::vectors::wide(work)
}

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
