//! From a file to a state whose arrays become the sampler's own: each is hashed and copied once,
//! from the cache.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytemuck::Pod;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::header::{Header, Info, damaged};
use super::{Array, BESIDE, IDS, READ, STATE_TEXT};
use crate::error::Result;
use crate::memory::zeros;
use crate::sampler::pool::PromptPool;
use crate::sampler::{LoadReport, Sampler};
use crate::state::{StateMap, StateValue};

/// Small arrays are read together.
const READ_AHEAD: usize = 1 << 16;

/// A snapshot that was read and found whole.
#[derive(Debug)]
pub struct Saved {
    /// Its number, from 1 on.
    pub generation: u64,
    /// Named texts that traveled beside the state.
    pub texts: BTreeMap<String, String>,
    /// Arrays that did.
    pub arrays: Vec<Array>,
    ids: Arc<Vec<u64>>,
    state: StateMap<'static>,
}

impl Saved {
    /// Restores a sampler; see `Sampler::load_state`.
    ///
    /// # Errors
    /// The state does not fit this sampler; nothing has changed then.
    pub fn load(self, sampler: &mut Sampler, strict: bool) -> Result<LoadReport> {
        let mut state: StateMap = self.state;
        state.insert(IDS.into(), Cow::from(self.ids.as_slice()).into());
        sampler.load_state(state, strict)
    }
}

/// Reads one array after another.
struct Arrays {
    file: BufReader<File>,
    hasher: Xxh3,
}

impl Arrays {
    fn read<T: Pod>(&mut self, bytes: usize, hashed: bool) -> io::Result<Vec<T>> {
        let mut array: Vec<T> = zeros(bytes / size_of::<T>());
        for chunk in bytemuck::cast_slice_mut(&mut array).chunks_mut(READ) {
            self.file.read_exact(chunk)?;
            if hashed {
                self.hasher.update(chunk);
            }
        }
        Ok(array)
    }

    fn read_value(&mut self, name: &str, info: &Info) -> io::Result<StateValue<'static>> {
        let scalar = info.shape.is_empty();
        Ok(match (info.dtype.as_str(), info.shape.len()) {
            ("U64", 0 | 1) => match self.read::<u64>(info.len(), true)? {
                numbers if scalar => numbers[0].into(),
                numbers => numbers.into(),
            },
            ("F64", 0 | 1) => match self.read::<f64>(info.len(), true)? {
                numbers if scalar => numbers[0].into(),
                numbers => numbers.into(),
            },
            ("U8", 1) => self.read::<u8>(info.len(), true)?.into(),
            ("U32", 1) => self.read::<u32>(info.len(), true)?.into(),
            ("F32", 1) => self.read::<f32>(info.len(), true)?.into(),
            _ => return Err(damaged(format!("array {name:?}: {info:?}"))),
        })
    }
}

/// Reads a file whole. The ids are read only if they are not those of `pool`.
pub(super) fn read(file: File, pool: Option<&PromptPool>) -> io::Result<Saved> {
    let file_len = file.metadata()?.len();
    let mut file = BufReader::with_capacity(READ_AHEAD, file);
    let (header, signed) = Header::read(&mut file, file_len)?;
    let mut arrays = Arrays { file, hasher: Xxh3::new() };
    arrays.hasher.update(&signed);
    let (mut state, mut beside, mut ids) = (StateMap::new(), vec![], Arc::default());
    for (name, info) in header.arrays {
        if name == IDS {
            ids = read_ids(&mut arrays, &info, header.pool, pool)?;
        } else if let Some(name) = name.strip_prefix(BESIDE) {
            let bytes = arrays.read(info.len(), true)?;
            beside.push(Array {
                name: name.to_owned(),
                dtype: info.dtype,
                shape: info.shape,
                bytes,
            });
        } else {
            let value = arrays.read_value(&name, &info)?;
            state.insert(name, value);
        }
    }
    if arrays.hasher.digest() != header.checksum {
        return Err(damaged(format!(
            "checksum {:016x}, expected {:016x}",
            arrays.hasher.digest(),
            header.checksum
        )));
    }
    let (of_state, texts): (BTreeMap<_, _>, _) =
        header.texts.into_iter().partition(|(name, _)| name.starts_with(STATE_TEXT));
    state.extend(
        of_state.into_iter().map(|(name, text)| (name[STATE_TEXT.len()..].to_owned(), text.into())),
    );
    Ok(Saved { generation: header.generation, texts, arrays: beside, ids, state })
}

fn read_ids(
    arrays: &mut Arrays,
    info: &Info,
    digest: u128,
    pool: Option<&PromptPool>,
) -> io::Result<Arc<Vec<u64>>> {
    if let Some(pool) = pool.filter(|pool| pool.digest() == digest) {
        arrays.file.seek_relative(info.len() as i64)?;
        return Ok(pool.shared_ids());
    }
    let ids: Vec<u64> = arrays.read(info.len(), false)?;
    if xxh3_128(bytemuck::cast_slice(&ids)) == digest {
        Ok(ids.into())
    } else {
        Err(damaged("ids of another digest than expected"))
    }
}
