//! A copy of a sampler's state in memory that is kept from one snapshot to the next, and its way
//! into a file.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::header::{Header, Info, element_size};
use super::{Array, BESIDE, IDS, READ, STATE_TEXT, WRITE};
use crate::memory::with_capacity;
use crate::sampler::Sampler;
use crate::state::StateValue;

/// An array of the copy.
#[derive(Debug)]
struct Entry {
    name: String,
    dtype: Cow<'static, str>,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A copy of a state.
#[derive(Debug, Default)]
pub struct Image {
    texts: BTreeMap<String, String>,
    pool: u128,
    ids: Arc<Vec<u64>>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Image {
    /// Copies the state of a sampler in place of what was held. Only the first copy, and a larger
    /// one, allocate.
    pub fn capture(&mut self, sampler: &Sampler) {
        (self.ids, self.pool) = (sampler.pool().shared_ids(), sampler.pool().digest());
        self.texts.clear();
        self.entries.clear();
        self.bytes.clear();
        let state = sampler.lend_state();
        self.reserve(state.values().map(|value| raw(value).2.len()).sum());
        for (name, value) in state {
            if let StateValue::Text(text) = &value {
                self.texts.insert(format!("{STATE_TEXT}{name}"), text.clone());
            } else if name != IDS {
                let (dtype, shape, bytes) = raw(&value);
                self.push(name, dtype.into(), shape, &bytes);
            }
        }
    }

    /// Adds what travels beside the state: named texts and arrays.
    pub fn attach(
        &mut self,
        texts: impl IntoIterator<Item = (String, String)>,
        arrays: impl IntoIterator<Item = Array>,
    ) {
        self.texts.extend(texts);
        for Array { name, dtype, shape, bytes } in arrays {
            self.push(format!("{BESIDE}{name}"), dtype.into(), shape, &bytes);
        }
    }

    fn push(&mut self, name: String, dtype: Cow<'static, str>, shape: Vec<usize>, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.entries.push(Entry { name, dtype, shape, bytes: start..self.bytes.len() });
    }

    fn reserve(&mut self, len: usize) {
        if self.bytes.capacity() < len {
            // Room for labels to come.
            self.bytes = with_capacity(len + len / 8);
        }
    }

    /// The copied arrays in the order of the file.
    fn sorted(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| (Reverse(element_size(&entry.dtype)), &entry.name));
        entries
    }

    fn header(&self, entries: &[&Entry], generation: u64) -> Header {
        let mut end = 0;
        let mut info = |dtype: &str, shape: &[usize], len: usize| {
            let start = end;
            end += len;
            Info { dtype: dtype.to_owned(), shape: shape.to_vec(), data_offsets: [start, end] }
        };
        let mut arrays = vec![(
            IDS.to_owned(),
            info("U64", &[self.ids.len()], size_of_val(self.ids.as_slice())),
        )];
        arrays.extend(entries.iter().map(|entry| {
            (entry.name.clone(), info(&entry.dtype, &entry.shape, entry.bytes.len()))
        }));
        Header { generation, pool: self.pool, checksum: 0, texts: self.texts.clone(), arrays }
    }

    /// Writes the copy over a file, the header last, and waits until it is on the disk. `held`:
    /// pool whose ids the file holds, and where. Returns the same of what was written.
    pub(super) fn write(
        &self,
        file: &mut File,
        generation: u64,
        held: Option<(u128, u64)>,
    ) -> io::Result<(u128, u64)> {
        let entries = self.sorted();
        let mut header = self.header(&entries, generation).to_bytes();
        let mut hasher = Xxh3::new();
        hasher.update(&header);
        let holds = (self.pool, header.len() as u64);
        let ids: &[u8] = bytemuck::cast_slice(&self.ids);
        let after_ids = holds.1 + ids.len() as u64;
        if held != Some(holds) || file.metadata()?.len() < after_ids {
            file.seek(SeekFrom::Start(holds.1))?;
            file.write_all(ids)?;
        }
        file.seek(SeekFrom::Start(after_ids))?;
        let mut buffered = io::BufWriter::with_capacity(READ, &*file);
        for chunk in entries.iter().flat_map(|entry| self.bytes[entry.bytes.clone()].chunks(WRITE))
        {
            hasher.update(chunk);
            buffered.write_all(chunk)?;
        }
        buffered.flush()?;
        drop(buffered);
        let end = file.stream_position()?;
        file.set_len(end)?;
        Header::sign(&mut header, hasher.digest());
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        file.sync_all()?;
        Ok(holds)
    }
}

/// An entry of a state as it lies in memory; a text has no bytes.
fn raw<'a>(value: &'a StateValue) -> (&'static str, Vec<usize>, Cow<'a, [u8]>) {
    fn array<'a, T: bytemuck::NoUninit>(
        dtype: &'static str,
        array: &'a [T],
    ) -> (&'static str, Vec<usize>, Cow<'a, [u8]>) {
        (dtype, vec![array.len()], bytemuck::cast_slice(array).into())
    }
    match value {
        StateValue::Int(number) => ("U64", vec![], number.to_le_bytes().to_vec().into()),
        StateValue::Float(number) => ("F64", vec![], number.to_le_bytes().to_vec().into()),
        StateValue::Text(_) => ("U8", vec![0], Cow::default()),
        StateValue::U8(codes) => array("U8", codes),
        StateValue::U32(numbers) => array("U32", numbers),
        StateValue::U64(numbers) => array("U64", numbers),
        StateValue::F32(numbers) => array("F32", numbers),
        StateValue::F64(numbers) => array("F64", numbers),
    }
}
