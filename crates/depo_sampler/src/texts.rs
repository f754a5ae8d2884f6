//! Texts in buffers of UTF-8 bytes, as Arrow and `NumPy` hold them, and the ids of the prompts that
//! they make.

use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};
use simdutf8::basic::from_utf8;

use crate::error::{Error, Result, require};
use crate::rng::content_id;

/// Bytes of the digest that `depo.types.records.Prompt.id` is.
const DIGEST_BYTES: usize = 16;

/// Prompts hashed side by side; the vector units take 2 to 8 at a time.
const HASHED_AT_ONCE: usize = 64;

/// Bytes looked at together for one that JSON escapes.
const ESCAPE_BLOCK: usize = 32;

/// Where texts begin and end, in either of Arrow's widths.
#[derive(Debug, Clone, Copy)]
pub enum Offsets<'a> {
    /// Up to 2 GiB.
    Narrow(&'a [i32]),
    /// Any size.
    Wide(&'a [i64]),
}

impl Offsets<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Narrow(offsets) => offsets.len(),
            Self::Wide(offsets) => offsets.len(),
        }
    }

    fn at(&self, index: usize) -> i64 {
        match self {
            Self::Narrow(offsets) => offsets[index].into(),
            Self::Wide(offsets) => offsets[index],
        }
    }
}

/// Texts that lie one behind the other: text i is the bytes from offset i up to offset i + 1.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    utf8: &'a [u8],
    offsets: Offsets<'a>,
}

impl<'a> Texts<'a> {
    /// Texts in buffers that `check` has passed, or is about to.
    pub fn new(utf8: &'a [u8], offsets: Offsets<'a>) -> Self {
        Self { utf8, offsets }
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of one text; none if the offsets do not lie within the buffer.
    pub fn bytes(&self, row: usize) -> Option<&'a [u8]> {
        let (start, end) = (
            usize::try_from(self.offsets.at(row)).ok()?,
            usize::try_from(self.offsets.at(row + 1)).ok()?,
        );
        self.utf8.get(start..end)
    }

    /// Every text in turn; those that are not there any more are empty.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let texts = *self;
        (0..self.len()).map(move |row| texts.bytes(row).unwrap_or_default())
    }

    /// Checks that each text lies within the buffer and is UTF-8.
    ///
    /// # Errors
    /// There is no offset, offsets fall or leave the buffer, or a text is no UTF-8; `first_row` is
    /// the number of the first text in messages.
    pub fn check(&self, first_row: usize) -> Result<()> {
        require(
            self.offsets.len() > 0,
            "offsets",
            "length 0",
            "one offset more than there are texts",
        )?;
        if self.is_empty() {
            return Ok(());
        }
        for row in 0..self.len() {
            let (start, end) = (self.offsets.at(row), self.offsets.at(row + 1));
            if start < 0 || end < start || end as usize > self.utf8.len() {
                let expected = format!(
                    "offsets from 0 to {}, the length of utf8, that never fall",
                    self.utf8.len()
                );
                return Err(Error::argument(
                    "offsets",
                    format!("{start} and then {end} at row {}", first_row + row),
                    expected,
                ));
            }
        }
        match self.first_invalid() {
            Some(row) => Err(Error::argument(
                "utf8",
                format!("bytes at row {} that are no UTF-8", first_row + row),
                "UTF-8",
            )),
            None => Ok(()),
        }
    }

    /// The first text that is no UTF-8: all bytes are read once, in one piece, which then no offset
    /// may cut within a character.
    fn first_invalid(&self) -> Option<usize> {
        let span = self.offsets.at(0) as usize..self.offsets.at(self.len()) as usize;
        if let Ok(text) = from_utf8(&self.utf8[span.clone()]) {
            return (0..self.len()).find(|&row| {
                !text.is_char_boundary(self.offsets.at(row + 1) as usize - span.start)
            });
        }
        (0..self.len()).find(|&row| self.bytes(row).is_none_or(|bytes| from_utf8(bytes).is_err()))
    }
}

/// Ground truths of a pool, one for each text.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    /// Strings, or values of any kind as JSON.
    pub texts: &'a [Texts<'a>],
    /// Which of both.
    pub are_json: bool,
}

/// Ids of a pool by what its prompts say: of each the XXH3-64 of `depo.types.records.Prompt.id`,
/// which is the hexadecimal BLAKE2b-128 of the JSON list `[source, text, answer]`.
///
/// # Errors
/// There are not as many sources or answers as texts, or a source has no name.
pub fn prompt_ids(
    texts: &[Texts],
    answers: Option<Answers>,
    sources: &[u32],
    names: &[String],
) -> Result<Vec<u64>> {
    let len = count(texts);
    require_len("sources", sources.len(), len)?;
    require_len("answers", answers.map_or(len, |answers| count(answers.texts)), len)?;
    if let Some(position) = sources.iter().position(|&source| source as usize >= names.len()) {
        return Err(Error::Index {
            argument: "sources",
            position,
            index: sources[position].into(),
            len: names.len(),
        });
    }
    let starts: Vec<Vec<u8>> = names.iter().map(|name| list_start(name)).collect();
    let mut answer = answers.iter().flat_map(|answers| answers.texts).flat_map(Texts::iter);
    let are_json = answers.is_some_and(|answers| answers.are_json);
    let mut rows = texts.iter().flat_map(Texts::iter).zip(sources);
    let mut ids = Vec::with_capacity(len);
    let mut contents = vec![Vec::new(); HASHED_AT_ONCE];
    while ids.len() < len {
        let batch = HASHED_AT_ONCE.min(len - ids.len());
        for (content, (text, &source)) in contents.iter_mut().zip(rows.by_ref().take(batch)) {
            content.clear();
            content.extend_from_slice(&starts[source as usize]);
            push_json_string(content, text);
            push_answer(content, answer.next(), are_json);
        }
        push_ids(&mut ids, &contents[..batch]);
    }
    Ok(ids)
}

/// Ends the list of a prompt with its answer.
fn push_answer(content: &mut Vec<u8>, answer: Option<&[u8]>, are_json: bool) {
    content.extend_from_slice(b", ");
    match answer {
        None => content.extend_from_slice(b"null"),
        Some(json) if are_json => content.extend_from_slice(json),
        Some(string) => push_json_string(content, string),
    }
    content.push(b']');
}

fn count(columns: &[Texts]) -> usize {
    columns.iter().map(Texts::len).sum()
}

fn require_len(argument: &'static str, len: usize, texts: usize) -> Result<()> {
    require(len == texts, argument, format!("length {len}"), &format!("length {texts}, as texts"))
}

fn list_start(source: &str) -> Vec<u8> {
    let mut start = vec![b'['];
    push_json_string(&mut start, source.as_bytes());
    start.extend_from_slice(b", ");
    start
}

fn push_ids(ids: &mut Vec<u64>, contents: &[Vec<u8>]) {
    let mut params = Params::new();
    params.hash_length(DIGEST_BYTES);
    let mut jobs: Vec<HashManyJob> =
        contents.iter().map(|content| HashManyJob::new(&params, content)).collect();
    hash_many(&mut jobs);
    ids.extend(jobs.iter().map(|job| content_id(job.to_hash().to_hex().as_bytes())));
}

/// Appends a string as Python's `json.dumps(..., ensure_ascii=False)` writes it.
fn push_json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for block in bytes.chunks(ESCAPE_BLOCK) {
        // Without an exit in its middle the test of a block is a few vector instructions.
        if block.iter().fold(false, |found, &byte| found | is_escaped(byte)) {
            for &byte in block {
                push_json_byte(out, byte);
            }
        } else {
            out.extend_from_slice(block);
        }
    }
    out.push(b'"');
}

fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn push_json_byte(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend([b'\\', byte]),
        b'\n' => out.extend(b"\\n"),
        b'\r' => out.extend(b"\\r"),
        b'\t' => out.extend(b"\\t"),
        0x08 => out.extend(b"\\b"),
        0x0c => out.extend(b"\\f"),
        0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
        _ => out.push(byte),
    }
}
