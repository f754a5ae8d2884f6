//! Queries over one number per item, for millions of items: draws by weight, and the best few. Knows nothing of prompts, seeds or Python.

mod best;
mod sum_tree;

pub use best::best;
pub use sum_tree::SumTree;
