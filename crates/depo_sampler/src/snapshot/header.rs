//! The header of a slot: length, JSON, spaces up to a page, so that the ids stay where they are
//! while the header changes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Headers end at multiples of this.
const PAGE: usize = 4096;
const METADATA: &str = "__metadata__";
const BEFORE_CHECKSUM: &str = r#"{"__metadata__":{"checksum":""#;
const BEFORE_GENERATION: &str = r#"","generation":""#;
/// Where the digits of the checksum are; they count as zeros where the header is hashed.
const CHECKSUM: Range<usize> = 8 + BEFORE_CHECKSUM.len()..8 + BEFORE_CHECKSUM.len() + 16;
/// Where those of the generation are.
const GENERATION: Range<usize> =
    CHECKSUM.end + BEFORE_GENERATION.len()..CHECKSUM.end + BEFORE_GENERATION.len() + 20;

/// Where an array is, and what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data_offsets: [usize; 2],
}

impl Info {
    pub fn len(&self) -> usize {
        self.data_offsets[1] - self.data_offsets[0]
    }
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub generation: u64,
    /// XXH3-128 of the ids.
    pub pool: u128,
    /// XXH3-64 of the header and of all arrays but the ids.
    pub checksum: u64,
    pub texts: BTreeMap<String, String>,
    /// Arrays in the order of the file, without gaps.
    pub arrays: Vec<(String, Info)>,
}

/// Bytes of an element; 0: no such type.
pub(super) fn element_size(dtype: &str) -> usize {
    match dtype {
        "BOOL" | "U8" | "I8" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" | "C64" => 8,
        _ => 0,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass temporaries")]
pub(super) fn damaged(problem: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

/// Bytes of a header that are read; the safetensors format, too, ends there.
const LONGEST: u64 = 100_000_000;

impl Header {
    /// The bytes, with zeros for the checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (generation, pool) = (self.generation, self.pool);
        let mut json = format!(
            "{BEFORE_CHECKSUM}{:016x}{BEFORE_GENERATION}{generation:020}\",\"pool\":\"{pool:032x}\"",
            0
        );
        for (name, text) in &self.texts {
            let _ = write!(json, ",{}:{}", quoted(name), quoted(text));
        }
        json.push('}');
        for (name, Info { dtype, shape, data_offsets: [start, end] }) in &self.arrays {
            let _ = write!(
                json,
                r#",{}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#,
                quoted(name)
            );
        }
        json.push('}');
        let len = (8 + json.len()).next_multiple_of(PAGE);
        let mut bytes = ((len - 8) as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(len, b' ');
        bytes
    }

    /// Writes the checksum into the bytes.
    pub fn sign(bytes: &mut [u8], checksum: u64) {
        bytes[CHECKSUM].copy_from_slice(format!("{checksum:016x}").as_bytes());
    }

    /// Number of the snapshot in a file, which its header tells as `read` will; 0: its first one
    /// was never finished, for the header comes last.
    pub fn generation(file: &mut impl Read) -> io::Result<u64> {
        let mut bytes = vec![];
        file.take(GENERATION.end as u64).read_to_end(&mut bytes)?;
        if bytes.iter().take(8).all(|&byte| byte == 0) {
            return Ok(0);
        }
        let digits = bytes.get(GENERATION).and_then(|digits| std::str::from_utf8(digits).ok());
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| damaged("no snapshot of a sampler"))
    }

    /// Reads a header, and returns its bytes with zeros for the checksum.
    pub fn read(file: &mut impl Read, file_len: u64) -> io::Result<(Self, Vec<u8>)> {
        let mut bytes = vec![0; 8];
        file.read_exact(&mut bytes)?;
        let len = bytes.iter().rev().fold(0, |len, &byte| len << 8 | u64::from(byte));
        if len > file_len.saturating_sub(8).min(LONGEST) || (len as usize) < CHECKSUM.end {
            return Err(damaged(format!("header of {len} bytes in a file of {file_len}")));
        }
        bytes.resize(8 + len as usize, 0);
        file.read_exact(&mut bytes[8..])?;
        let mut arrays: BTreeMap<&str, &RawValue> =
            serde_json::from_slice(&bytes[8..]).map_err(damaged)?;
        let metadata = arrays.remove(METADATA).ok_or_else(|| damaged("no metadata"))?;
        let mut texts: BTreeMap<String, String> =
            serde_json::from_str(metadata.get()).map_err(damaged)?;
        let info = |(name, info): (&str, &RawValue)| {
            serde_json::from_str(info.get()).map(|info: Info| (name.to_owned(), info))
        };
        let mut arrays: Vec<(String, Info)> =
            arrays.into_iter().map(info).collect::<Result<_, _>>().map_err(damaged)?;
        let mut hex = |name: &str, radix| {
            let digits = texts.remove(name).unwrap_or_default();
            u128::from_str_radix(&digits, radix).map_err(|_| damaged(format!("{name} {digits:?}")))
        };
        let (checksum, generation, pool) =
            (hex("checksum", 16)? as u64, hex("generation", 10)? as u64, hex("pool", 16)?);
        Self::sign(&mut bytes, 0);
        arrays.sort_by_key(|(_, info)| info.data_offsets);
        let header = Self { generation, pool, checksum, texts, arrays };
        header.require_whole(file_len - bytes.len() as u64)?;
        Ok((header, bytes))
    }

    /// Arrays follow each other up to the end of the file, and each has the length of its shape.
    fn require_whole(&self, data_len: u64) -> io::Result<()> {
        let mut end = 0;
        for (name, info) in &self.arrays {
            let elements =
                info.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
            let len = elements.and_then(|elements| elements.checked_mul(element_size(&info.dtype)));
            let fits = info.data_offsets[0] == end
                && info.data_offsets[1] >= end
                && len == Some(info.len())
                && element_size(&info.dtype) > 0;
            if !fits {
                return Err(damaged(format!("array {name:?}: {info:?} after byte {end}")));
            }
            end = info.data_offsets[1];
        }
        if end as u64 == data_len {
            Ok(())
        } else {
            Err(damaged(format!("{data_len} bytes of arrays, expected {end}")))
        }
    }
}
