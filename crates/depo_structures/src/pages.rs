//! Memory in large pages, for tables of which a few rows are touched at a time: most of what that costs is finding the pages.

use std::ops::{Deref, DerefMut};

use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut};
use memmap2::MmapMut;

/// Rows, all zero at first, in pages as large as the system has for who asks.
#[derive(Debug)]
pub(crate) struct Table<T> {
    map: MmapMut,
    bytes: usize,
    row: std::marker::PhantomData<T>,
}

impl<T> Table<T> {
    /// # Panics
    /// There is not enough memory.
    pub fn new(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let map = MmapMut::map_anon(bytes.max(1)).unwrap_or_else(|error| panic!("no memory for {bytes} bytes: {error}"));
        // Small pages do as well, only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { map, bytes, row: std::marker::PhantomData }
    }
}

impl<T: AnyBitPattern> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        cast_slice(&self.map[..self.bytes])
    }
}

impl<T: AnyBitPattern + NoUninit> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        cast_slice_mut(&mut self.map[..self.bytes])
    }
}

impl<T: AnyBitPattern + NoUninit> Clone for Table<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: AnyBitPattern + PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
