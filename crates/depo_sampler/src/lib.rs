//! Prompt sampler for reinforcement learning with verifiable rewards: knows, before a rollout, how
//! likely each prompt is to teach the policy anything. The crate knows nothing of Python; the
//! feature `python` adds the bindings `depo._core`.

pub mod advantage;
pub mod belief;
pub mod error;
pub mod registry;
pub mod rng;
pub mod rules;
pub mod sampler;
pub mod settings;
pub mod state;
pub mod texts;
pub mod variates;
mod vectors;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
pub use sampler::Sampler;
pub use settings::Settings;
