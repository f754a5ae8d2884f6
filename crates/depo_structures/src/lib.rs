//! Queries over a number or two per item, for millions of items: draws by weight, the best few, the
//! draws nearest to a target, a window; over one point per item; and counts that fade. Prompts,
//! seeds and Python play no part here. `portable` has the arithmetic that is the same on all
//! machines, `vectors` loops for the processor at hand, `memory` arrays in large pages.

mod best;
mod beta;
mod box_tree;
mod counts;
mod distinct;
pub mod memory;
pub mod portable;
mod sum_tree;
mod thompson;
pub mod vectors;
mod window;

pub use best::best;
pub use beta::{GREATEST_COUNT, GREATEST_TARGET, LEAST_COUNT, LEAST_TARGET};
pub use box_tree::{Bounds, BoxTree};
pub use counts::DiscountedCounts;
pub use sum_tree::SumTree;
pub use thompson::ThompsonTree;
pub use window::Window;
