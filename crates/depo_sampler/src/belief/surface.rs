//! P(informative) plus some of its standard deviations as a function of a Gaussian's mean and
//! variance, from a table: quick to ask, and easy to bound over a box, for between nodes it is
//! never above the highest of them.

use super::logit_gaussian::LogitGaussian;

/// Cells along the axes. Together they keep the error of a score below 5e-4 for groups of up to 64
/// and variances up to 36, with up to 2 deviations.
const MEANS: usize = 256;
const DEVIATIONS: usize = 128;

/// At these the axes, which reach from 0 to infinity, have half of their cells behind them.
const MIDDLE_MEAN: f64 = 6.0;
const MIDDLE_DEVIATION: f64 = 3.0;

/// Where on an axis of so many cells a number lies: its place grows with the number.
fn place(number: f64, middle: f64, cells: usize) -> f64 {
    cells as f64 * (number / (number + middle))
}

/// The number at a node.
fn at_node(node: usize, middle: f64, cells: usize) -> f64 {
    // The last node is at infinity, and half a cell before it is as good.
    let node = (node as f64).min(cells as f64 - 0.5);
    middle * node / (cells as f64 - node)
}

/// P(informative) and its standard deviation at every node, row by row of one mean.
#[derive(Debug, Clone)]
pub(super) struct Outlooks {
    nodes: Vec<[f32; 2]>,
}

impl Outlooks {
    pub fn new(group_size: usize) -> Self {
        let node = |mean: usize, deviation: usize| {
            let deviation = at_node(deviation, MIDDLE_DEVIATION, DEVIATIONS);
            let mean = at_node(mean, MIDDLE_MEAN, MEANS);
            let outlook =
                LogitGaussian { mean, variance: deviation * deviation }.outlook(group_size);
            [outlook.p_informative as f32, outlook.deviation as f32]
        };
        Self {
            nodes: (0..=MEANS)
                .flat_map(|mean| (0..=DEVIATIONS).map(move |deviation| node(mean, deviation)))
                .collect(),
        }
    }

    /// P(informative) plus `deviations` of its standard deviations.
    pub fn surface(&self, deviations: f64) -> Surface {
        let nodes = self
            .nodes
            .iter()
            .map(|[p_informative, deviation]| p_informative + deviations as f32 * deviation);
        Surface { deviations, maxima: maxima(nodes.collect()) }
    }
}

/// Levels of maxima along an axis of so many cells: of single nodes, of two neighbors, of four,
/// ..., of all but the last.
const fn levels(cells: usize) -> usize {
    cells.ilog2() as usize + 1
}

/// Nodes at a level.
const fn nodes_at(cells: usize, level: usize) -> usize {
    (cells >> level) + 1
}

/// The highest of the nodes in every rectangle whose sides are powers of two.
fn maxima(nodes: Vec<f32>) -> Vec<Vec<f32>> {
    let mut all = vec![nodes];
    for level in 1..levels(MEANS) * levels(DEVIATIONS) {
        let (mean, deviation) = (level / levels(DEVIATIONS), level % levels(DEVIATIONS));
        let (rows, columns) = (nodes_at(MEANS, mean), nodes_at(DEVIATIONS, deviation));
        let merged = if deviation > 0 {
            let finer = &all[level - 1];
            let width = nodes_at(DEVIATIONS, deviation - 1);
            let pair = |row: usize, column: usize| {
                finer[row * width + 2 * column]
                    .max(finer[row * width + (2 * column + 1).min(width - 1)])
            };
            (0..rows).flat_map(|row| (0..columns).map(move |column| pair(row, column))).collect()
        } else {
            let finer = &all[level - levels(DEVIATIONS)];
            let height = nodes_at(MEANS, mean - 1);
            let pair = |row: usize, column: usize| {
                finer[2 * row * columns + column]
                    .max(finer[(2 * row + 1).min(height - 1) * columns + column])
            };
            (0..rows).flat_map(|row| (0..columns).map(move |column| pair(row, column))).collect()
        };
        all.push(merged);
    }
    all
}

/// The level at which two neighbors cover all nodes from the first to the last, and these two.
fn cover(first: usize, last: usize) -> (usize, [usize; 2]) {
    let level = (last - first).max(1).next_power_of_two().ilog2() as usize;
    (level, [first >> level, last >> level])
}

/// A score at every mean and variance.
#[derive(Debug, Clone)]
pub(super) struct Surface {
    deviations: f64,
    maxima: Vec<Vec<f32>>,
}

impl Surface {
    /// Standard deviations that are part of the score.
    pub fn deviations(&self) -> f64 {
        self.deviations
    }

    /// The score, linear along both axes between nodes.
    pub fn at(&self, gaussian: LogitGaussian) -> f64 {
        let mean = place(gaussian.mean.abs(), MIDDLE_MEAN, MEANS);
        let deviation = place(gaussian.variance.sqrt(), MIDDLE_DEVIATION, DEVIATIONS);
        let (row, column) = (mean as usize, deviation as usize);
        let (down, right) = (mean - row as f64, deviation - column as f64);
        let node =
            |row: usize, column: usize| f64::from(self.maxima[0][row * (DEVIATIONS + 1) + column]);
        let in_row = |row: usize| node(row, column) * (1.0 - right) + node(row, column + 1) * right;
        in_row(row) * (1.0 - down) + in_row(row + 1) * down
    }

    /// At least the score of every mean of absolute value within `means` and variance within
    /// `variances`, up to rounding.
    pub fn greatest(&self, means: [f64; 2], variances: [f64; 2]) -> f64 {
        let [first, last] = means.map(|mean| place(mean, MIDDLE_MEAN, MEANS));
        let (mean, rows) = cover(first as usize, (last as usize + 1).min(MEANS));
        let [first, last] =
            variances.map(|variance| place(variance.sqrt(), MIDDLE_DEVIATION, DEVIATIONS));
        let (deviation, columns) = cover(first as usize, (last as usize + 1).min(DEVIATIONS));
        let (nodes, width) =
            (&self.maxima[mean * levels(DEVIATIONS) + deviation], nodes_at(DEVIATIONS, deviation));
        let corners =
            rows.into_iter().flat_map(|row| columns.map(|column| nodes[row * width + column]));
        f64::from(corners.fold(f32::NEG_INFINITY, f32::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static OUTLOOKS: LazyLock<Outlooks> = LazyLock::new(|| Outlooks::new(8));

    #[test]
    fn the_table_is_close_everywhere() {
        for (group_size, deviations) in [(2, 0.0), (4, 2.0), (8, 1.25), (16, 2.0), (64, 1.25)] {
            let surface = Outlooks::new(group_size).surface(deviations);
            let mut worst = (0.0_f64, [0.0; 2]);
            for mean in (0..900).map(|mean| f64::from(mean) * 0.0273) {
                for deviation in (1..=100).map(|deviation| f64::from(deviation * deviation) * 6e-4)
                {
                    let gaussian = LogitGaussian { mean, variance: deviation * deviation };
                    let outlook = gaussian.outlook(group_size);
                    let error = (surface.at(gaussian)
                        - outlook.p_informative
                        - deviations * outlook.deviation)
                        .abs();
                    if error > worst.0 {
                        worst = (error, [mean, deviation]);
                    }
                }
            }
            assert!(worst.0 <= 5e-4, "{group_size}: {worst:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_box_is_above_its_bound(
            means in [0.0..40.0_f64, 0.0..40.0],
            deviations in [0.0..30.0_f64, 0.0..30.0],
            within in prop::collection::vec([0.0..=1.0_f64, 0.0..=1.0], 50),
            optimism in 0.0..3.0_f64, negative: bool,
        ) {
            let surface = OUTLOOKS.surface(optimism);
            let sorted = |[a, b]: [f64; 2]| [a.min(b), a.max(b)];
            let (means, deviations) = (sorted(means), sorted(deviations));
            let bound = surface.greatest(means, deviations.map(|deviation| deviation * deviation));
            for [mean, deviation] in within {
                let between = |[low, high]: [f64; 2], share: f64| low + share * (high - low);
                let (mean, deviation) = (between(means, mean), between(deviations, deviation));
                let gaussian = LogitGaussian {
                    mean: if negative { -mean } else { mean },
                    variance: deviation * deviation,
                };
                prop_assert!(surface.at(gaussian) <= bound + 1e-9);
            }
        }
    }
}
