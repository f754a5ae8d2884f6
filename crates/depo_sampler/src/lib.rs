//! Prompt sampler for reinforcement learning with verifiable rewards: predicts, before a rollout,
//! how likely each prompt is to give a group with both successes and failures.
//!
//! The crate does not depend on Python; the feature `python` adds the bindings `depo._core`.
//!
//! ```
//! use depo_sampler::{Sampler, Settings};
//!
//! # fn main() -> Result<(), depo_sampler::Error> {
//! let ids: Vec<u64> = (0..1000).collect();
//! let sources = vec![0; ids.len()];
//! let settings = Settings { group_size: 4, ..Settings::default() };
//! let mut sampler = Sampler::new(ids, sources, settings)?;
//! for version in 0..20 {
//!     // Candidates come in rounds, until enough of them are known.
//!     loop {
//!         let candidates: Vec<i64> =
//!             sampler.propose(8, version)?.into_iter().map(i64::from).collect();
//!         if candidates.is_empty() {
//!             break;
//!         }
//!         let no_text_predictions = vec![f32::NAN; candidates.len()];
//!         sampler.offer(&candidates, &no_text_predictions, version)?;
//!     }
//!     let draws = sampler.take(8, version);
//!     let draw_ids: Vec<i64> = draws.iter().map(|draw| draw.draw_id as i64).collect();
//!     // Four rewards per draw: here prompts of even index succeed half of the time.
//!     let rewards: Vec<f32> = draws
//!         .iter()
//!         .flat_map(|draw| if draw.prompt % 2 == 0 { [0.0, 1.0, 0.0, 1.0] } else { [0.0; 4] })
//!         .collect();
//!     let no_logprobs = vec![f32::NAN; draws.len()];
//!     let shape = [draws.len(), 4];
//!     sampler.observe(&draw_ids, &rewards, shape, &no_logprobs, version)?;
//! }
//! # Ok(())
//! # }
//! ```

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
