//! Snapshots of a sampler in files of the safetensors format
//! (<https://github.com/huggingface/safetensors>), so that other tools read them, too.
//!
//! The state's arrays lie there as they do in memory: widest elements first, then by name; numbers
//! are arrays without dimensions, texts metadata. What else is restored with a sampler, its
//! caller's arrays and a text, travels beside. The ids of the prompts come first of all: they never
//! change, so that they are neither copied nor written again, nor read where they are known. A
//! digest in the header stands for them; a checksum, for everything else.

mod header;
mod image;
mod reading;
mod slots;

pub use image::Image;
pub use reading::Saved;
pub use slots::Slots;

/// Bytes that are read at a time, and hashed while they are in the cache.
const READ: usize = 1 << 18;
/// Bytes that are written at a time: the system keeps a file in larger pieces that was written so,
/// and overwrites them faster.
const WRITE: usize = 1 << 23;
/// Name of the state's text `name` in the metadata.
const STATE_TEXT: &str = "state/";
/// Name of an array that travels beside the state.
const BESIDE: &str = "beside/";
const IDS: &str = "pool.ids";

/// An array of any type that travels beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Its name.
    pub name: String,
    /// Its element type, as safetensors names it.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row by row, little-endian.
    pub bytes: Vec<u8>,
}

#[cfg(target_endian = "big")]
compile_error!("snapshots are little-endian, as safetensors are");
