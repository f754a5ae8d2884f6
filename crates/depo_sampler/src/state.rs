//! Saved state as named scalars and arrays, and how per-prompt values follow their prompts into
//! another pool.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use depo_structures::memory::{copied, with_capacity};

/// A complete saved state; one that is to be loaded may lend its arrays.
pub type StateMap<'a> = BTreeMap<String, StateValue<'a>>;

const ABSENT: u32 = u32::MAX;

macro_rules! state_values {
    ($($(#[$doc:meta])* $variant:ident($type:ty), $name:literal;)*) => {
        /// One entry of a saved state.
        #[derive(Debug, Clone, PartialEq)]
        pub enum StateValue<'a> {
            $($(#[$doc])* $variant($type),)*
        }

        impl StateValue<'_> {
            fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }
        }

        $(
            impl<'a> From<$type> for StateValue<'a> {
                fn from(value: $type) -> Self { Self::$variant(value) }
            }

            impl<'a> StateEntry<'a> for $type {
                const KIND: &'static str = $name;

                fn from_value(value: StateValue<'a>) -> std::result::Result<Self, StateValue<'a>> {
                    match value { StateValue::$variant(inner) => Ok(inner), other => Err(other) }
                }
            }
        )*
    };
}

/// A type that an entry may have.
pub trait StateEntry<'a>: Sized {
    /// Name of the type in messages.
    const KIND: &'static str;

    /// Takes the entry apart, or gives it back if it is of another type.
    ///
    /// # Errors
    /// The value itself, if it is of another type.
    fn from_value(value: StateValue<'a>) -> std::result::Result<Self, StateValue<'a>>;
}

state_values! {
    /// A count, version or seed.
    Int(u64), "an integer";
    /// A real number.
    Float(f64), "a float";
    /// A name.
    Text(String), "a string";
    /// Small codes.
    U8(Cow<'a, [u8]>), "a uint8 array";
    /// Prompt indices and policy versions.
    U32(Cow<'a, [u32]>), "a uint32 array";
    /// Ids and totals.
    U64(Cow<'a, [u64]>), "a uint64 array";
    /// Probabilities and rewards.
    F32(Cow<'a, [f32]>), "a float32 array";
    /// Accumulated sums.
    F64(Cow<'a, [f64]>), "a float64 array";
}

impl<'a, T: Copy + 'a> From<Vec<T>> for StateValue<'a>
where
    Self: From<Cow<'a, [T]>>,
{
    fn from(array: Vec<T>) -> Self {
        Cow::<'a, [T]>::Owned(array).into()
    }
}

impl<'a, T: Copy + 'a> StateEntry<'a> for Vec<T>
where
    Cow<'a, [T]>: StateEntry<'a>,
{
    const KIND: &'static str = Cow::<'a, [T]>::KIND;

    fn from_value(value: StateValue<'a>) -> std::result::Result<Self, StateValue<'a>> {
        Cow::from_value(value).map(Cow::into_owned)
    }
}

impl StateValue<'_> {
    /// The entry with an array of its own.
    pub fn into_owned(self) -> StateValue<'static> {
        fn own<T: Copy>(array: Cow<[T]>) -> Cow<'static, [T]> {
            Cow::Owned(match array {
                Cow::Owned(array) => array,
                Cow::Borrowed(array) => copied(array),
            })
        }
        match self {
            Self::Int(number) => StateValue::Int(number),
            Self::Float(number) => StateValue::Float(number),
            Self::Text(text) => StateValue::Text(text),
            Self::U8(array) => StateValue::U8(own(array)),
            Self::U32(array) => StateValue::U32(own(array)),
            Self::U64(array) => StateValue::U64(own(array)),
            Self::F32(array) => StateValue::F32(own(array)),
            Self::F64(array) => StateValue::F64(own(array)),
        }
    }
}

/// Reads a saved state entry by entry; whatever is left over at the end is an error.
#[derive(Debug)]
pub struct StateReader<'a> {
    entries: StateMap<'a>,
}

impl<'a> StateReader<'a> {
    /// Starts reading.
    pub fn new(entries: StateMap<'a>) -> Self {
        Self { entries }
    }

    /// Takes out one entry.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn take<T: StateEntry<'a>>(&mut self, name: &str) -> Result<T> {
        let value = self
            .entries
            .remove(name)
            .ok_or_else(|| Error::StateMissing { name: name.to_owned() })?;
        T::from_value(value).map_err(|other| Error::state_entry(name, other.kind(), T::KIND))
    }

    /// Takes out an array of a known length.
    ///
    /// # Errors
    /// It is missing, of another type or of another length.
    pub fn array<T: Copy + 'a>(&mut self, name: &str, len: usize) -> Result<Vec<T>>
    where
        Cow<'a, [T]>: StateEntry<'a>,
    {
        self.lent(name, len).map(Cow::into_owned)
    }

    /// The same without a copy, for arrays with one entry per prompt.
    ///
    /// # Errors
    /// It is missing, of another type or of another length.
    pub fn lent<T: Copy + 'a>(&mut self, name: &str, len: usize) -> Result<Cow<'a, [T]>>
    where
        Cow<'a, [T]>: StateEntry<'a>,
    {
        let array: Cow<'a, [T]> = self.take(name)?;
        if array.len() == len {
            return Ok(array);
        }
        Err(Error::state_entry(name, format!("length {}", array.len()), format!("length {len}")))
    }

    /// The same for counts.
    ///
    /// # Errors
    /// As `lent`, or a number is not finite or below 0.
    pub fn counts<T: Copy + Into<f64> + 'a>(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Cow<'a, [T]>>
    where
        Cow<'a, [T]>: StateEntry<'a>,
    {
        let counts = self.lent::<T>(name, len)?;
        let is_count = |&count: &T| (0.0..=f64::MAX).contains(&count.into());
        match counts.iter().position(|count| !is_count(count)) {
            Some(at) => Err(Error::state_entry(
                name,
                format!("{} at position {at}", counts[at].into()),
                "finite numbers of at least 0",
            )),
            None => Ok(counts),
        }
    }

    /// Leaves out every entry whose name starts with `prefix`.
    pub(crate) fn skip(&mut self, prefix: &str) {
        self.entries.retain(|name, _| !name.starts_with(prefix));
    }

    /// Ends reading.
    ///
    /// # Errors
    /// An entry was not read.
    pub fn finish(self) -> Result<()> {
        match self.entries.into_keys().next() {
            Some(name) => Err(Error::StateSuperfluous { name }),
            None => Ok(()),
        }
    }
}

/// Where the prompts of a saved state are in the present pool.
#[derive(Debug)]
pub struct Carry {
    saved_len: usize,
    /// None: both pools hold the same prompts in the same order.
    moved: Option<Moved>,
}

#[derive(Debug)]
struct Moved {
    old_of_new: Vec<u32>,
    new_of_old: Vec<u32>,
}

impl Moved {
    fn new(saved: &[u64], ids: &[u64]) -> Self {
        let positions: HashMap<u64, u32> =
            saved.iter().zip(0..).map(|(&id, position)| (id, position)).collect();
        let old_of_new: Vec<u32> =
            ids.iter().map(|id| positions.get(id).copied().unwrap_or(ABSENT)).collect();
        let mut new_of_old = vec![ABSENT; saved.len()];
        for (new, &old) in (0..).zip(&old_of_new) {
            if old != ABSENT {
                new_of_old[old as usize] = new;
            }
        }
        Self { old_of_new, new_of_old }
    }
}

impl Carry {
    /// Matches saved ids with the present ones.
    ///
    /// # Errors
    /// `strict`, and the ids or their order differ.
    pub fn new(saved: &[u64], ids: &[u64], strict: bool) -> Result<Self> {
        let identical = saved == ids;
        if strict && !identical {
            let position = saved.iter().zip(ids).take_while(|(old, new)| old == new).count();
            return Err(Error::StateOtherPool { saved: saved.len(), len: ids.len(), position });
        }
        Ok(Self { saved_len: saved.len(), moved: (!identical).then(|| Moved::new(saved, ids)) })
    }

    /// Whether both pools hold the same prompts in the same order.
    pub fn is_identical(&self) -> bool {
        self.moved.is_none()
    }

    /// Number of prompts in the saved state.
    pub fn saved_len(&self) -> usize {
        self.saved_len
    }

    /// Number of prompts in both pools.
    pub fn matched(&self) -> usize {
        self.moved.as_ref().map_or(self.saved_len, |moved| {
            moved.old_of_new.iter().filter(|&&old| old != ABSENT).count()
        })
    }

    /// Present index of a saved prompt; none if the present pool lacks it.
    ///
    /// # Errors
    /// `old` is not an index of the saved pool.
    pub fn prompt(&self, name: &str, old: u32) -> Result<Option<u32>> {
        if old as usize >= self.saved_len {
            return Err(Error::state_entry(
                name,
                old,
                format!("a prompt index below {}", self.saved_len),
            ));
        }
        let new = self.moved.as_ref().map_or(old, |moved| moved.new_of_old[old as usize]);
        Ok((new != ABSENT).then_some(new))
    }

    /// Prompts of a saved list that are in the present pool, with the value of each. Arrays that
    /// are not lent are kept as they are.
    ///
    /// # Errors
    /// The list holds something that is not an index of the saved pool.
    pub fn prompts<T: Copy>(
        &self,
        name: &str,
        saved: Cow<[u32]>,
        values: Cow<[T]>,
    ) -> Result<(Vec<u32>, Vec<T>)> {
        if self.is_identical() {
            let greatest = saved.iter().copied().max();
            greatest.map_or(Ok(None), |prompt| self.prompt(name, prompt))?;
            return Ok((saved.into_owned(), values.into_owned()));
        }
        let present = |(&old, &value)| {
            self.prompt(name, old).map(|prompt| prompt.map(|prompt| (prompt, value))).transpose()
        };
        saved.iter().zip(values.iter()).filter_map(present).collect()
    }

    /// One value per prompt, in the present order; `default` for prompts that the state does not
    /// know. An array that is not lent is kept as it is.
    pub fn column<T: Copy>(&self, saved: Cow<[T]>, default: T) -> Vec<T> {
        match saved {
            Cow::Owned(column) if self.is_identical() => column,
            Cow::Borrowed(column) if self.is_identical() => copied(column),
            saved => self.gather(|prompt| saved[prompt], default),
        }
    }

    /// Per-prompt values in the present order: `saved` by index in the saved pool, `default` for
    /// prompts that the state does not know.
    pub fn gather<T: Copy>(&self, saved: impl Fn(usize) -> T, default: T) -> Vec<T> {
        let Some(moved) = &self.moved else {
            return (0..self.saved_len).map(saved).collect();
        };
        let mut gathered = with_capacity(moved.old_of_new.len());
        gathered.extend(
            moved.old_of_new.iter().map(
                |&old| {
                    if old == ABSENT { default } else { saved(old as usize) }
                },
            ),
        );
        gathered
    }
}
