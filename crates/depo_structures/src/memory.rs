//! Memory of arrays with an entry per item. Touching it for the first time, 4 KB at a time, costs
//! more than most of what is done to millions of them.

use bytemuck::Zeroable;

const HUGE_PAGE: usize = 2 << 20;
/// Smaller arrays lie in memory that the allocator reuses.
const LARGE: usize = 2 * HUGE_PAGE;

/// Entries to allocate for `len`: large arrays end with a huge page.
fn capacity<T>(len: usize) -> usize {
    let bytes = len * size_of::<T>();
    if bytes < LARGE { len } else { bytes.next_multiple_of(HUGE_PAGE) / size_of::<T>() }
}

/// Asks for huge pages behind a large array whose memory was not touched yet. A hint: nothing else
/// depends on it.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "a load of 10M prompts takes 2.5 times as long without; the advice changes no content"
)]
fn in_huge_pages<T>(array: Vec<T>) -> Vec<T> {
    const PAGE: usize = 4096;
    let bytes = array.capacity() * size_of::<T>();
    if bytes >= LARGE {
        let before = array.as_ptr() as usize % PAGE;
        let start = array.as_ptr().cast_mut().cast::<u8>().wrapping_sub(before);
        // SAFETY: these pages hold parts of the allocation. Where advice is refused (other page
        // sizes, no huge pages) nothing happens.
        unsafe {
            libc::madvise(
                start.cast(),
                (before + bytes).next_multiple_of(PAGE),
                libc::MADV_HUGEPAGE,
            )
        };
    }
    array
}

#[cfg(not(target_os = "linux"))]
fn in_huge_pages<T>(array: Vec<T>) -> Vec<T> {
    array
}

/// An empty array with room for `len` entries or more.
pub fn with_capacity<T>(len: usize) -> Vec<T> {
    in_huge_pages(Vec::with_capacity(capacity::<T>(len)))
}

/// Zeros, laid out without being written where the array is large.
pub fn zeros<T: Zeroable + Clone>(len: usize) -> Vec<T> {
    let mut array = in_huge_pages(vec![T::zeroed(); capacity::<T>(len)]);
    array.truncate(len);
    array
}

/// A copy.
pub fn copied<T: Copy>(array: &[T]) -> Vec<T> {
    let mut copy = with_capacity(array.len());
    copy.extend_from_slice(array);
    copy
}

/// The same value over and over.
pub fn filled<T: Copy>(value: T, len: usize) -> Vec<T> {
    let mut array = with_capacity(len);
    array.resize(len, value);
    array
}
