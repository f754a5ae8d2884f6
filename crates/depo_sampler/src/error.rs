//! The ways to fail. Messages name the argument or entry, what was got and what is expected.

use thiserror::Error;

/// Result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Error {
    /// A prompt index, or another index, lies outside its range.
    #[error(
        "{argument}: got index {index} at position {position}, expected an index within 0..{len}"
    )]
    Index {
        /// Argument that held the index.
        argument: &'static str,
        /// Where in the argument.
        position: usize,
        /// The index.
        index: i64,
        /// First index that is too large.
        len: usize,
    },
    /// An argument or setting is out of its range or of the wrong shape.
    #[error("{argument}: got {got}, expected {expected}")]
    Argument {
        /// Name of the argument.
        argument: &'static str,
        /// What was given.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// Two prompts of a pool have the same id.
    #[error("ids: got id {id} at positions {first} and {second}, expected distinct ids")]
    DuplicateId {
        /// The id.
        id: u64,
        /// Position of its first occurrence.
        first: usize,
        /// Position of its second occurrence.
        second: usize,
    },
    /// `propose` was called again before the candidates of the last call were offered.
    #[error(
        "propose: got a second call, expected `offer` for the {pending} candidates of the last \
            one first"
    )]
    OfferMissing {
        /// Number of candidates that wait for their predictions.
        pending: usize,
    },
    /// `offer` was called with other candidates than `propose` returned.
    #[error("candidates: got {got} at position {position}, expected {expected} as proposed")]
    OtherCandidates {
        /// First position that differs.
        position: usize,
        /// What was offered there ("nothing" past the end).
        got: String,
        /// What was proposed there ("nothing" past the end).
        expected: String,
    },
    /// A saved state lacks an entry.
    #[error("state: got no entry {name:?}, expected one")]
    StateMissing {
        /// Name of the entry.
        name: String,
    },
    /// A saved state has an entry that nothing reads.
    #[error("state: got an entry {name:?}, which is not part of a sampler's state")]
    StateSuperfluous {
        /// Name of the entry.
        name: String,
    },
    /// An entry of a saved state is of the wrong type, length or value.
    #[error("state: got {got} for entry {name:?}, expected {expected}")]
    StateEntry {
        /// Name of the entry.
        name: String,
        /// What was found.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// A saved state belongs to another pool of prompts.
    #[error(
        "state: got other prompts ({saved} prompts, first difference at position {position}), \
            expected this pool's {len} in the same order"
    )]
    StateOtherPool {
        /// Prompts in the state.
        saved: usize,
        /// Prompts in this pool.
        len: usize,
        /// First position at which the ids differ.
        position: usize,
    },
}

impl Error {
    /// An argument that is out of its range.
    #[expect(clippy::needless_pass_by_value, reason = "callers pass temporaries")]
    pub fn argument(argument: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Argument { argument, got: got.to_string(), expected: expected.to_string() }
    }

    /// An unusable entry of a saved state.
    #[expect(clippy::needless_pass_by_value, reason = "callers pass temporaries")]
    pub fn state_entry(name: &str, got: impl ToString, expected: impl ToString) -> Self {
        Self::StateEntry {
            name: name.to_owned(),
            got: got.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Whether the cause is an unusable saved state.
    pub fn is_state(&self) -> bool {
        matches!(
            self,
            Self::StateMissing { .. }
                | Self::StateSuperfluous { .. }
                | Self::StateEntry { .. }
                | Self::StateOtherPool { .. }
        )
    }
}

/// Returns an argument error unless `condition` holds.
pub(crate) fn require(
    condition: bool,
    argument: &'static str,
    got: impl ToString,
    expected: &str,
) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::argument(argument, got, expected)) }
}
