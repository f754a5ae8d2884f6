//! The best of many items, under any score that can be bounded over a box of the points at which
//! they lie.
//!
//! A bucket tree over regions that are halved along their longest side (a point-region k-d tree;
//! Samet, "The design and analysis of spatial data structures", 1990), searched best-first
//! (Hjaltason and Samet, "Distance browsing in spatial databases", 1999). It is a function of where
//! the items lie alone, not of the order in which they came there, and so is what a search finds.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Least and greatest coordinate by axis.
pub type Bounds<const D: usize> = [[f32; 2]; D];

/// Most items of a leaf.
const LEAF: usize = 64;

/// Sides shorter than this share of the axis' unit are not halved.
const SHORTEST_SIDE: f32 = 1.0 / 1024.0;

/// A leaf gives memory back when it uses less than one part in so many.
const SLACK: usize = 2;

const ROOT: u32 = 0;

#[derive(Debug, Clone)]
enum Kind {
    Leaf(Vec<u32>),
    /// Items below `middle` on `axis` are in the first child.
    Fork {
        axis: u8,
        middle: f32,
        children: [u32; 2],
        len: u32,
    },
}

#[derive(Debug, Clone)]
struct Node {
    /// The root's is the root.
    parent: u32,
    kind: Kind,
}

/// An item and where it lies.
type Entry<const D: usize> = ([f32; D], u32);

/// A region that was not looked into yet. Greater ones come first: those of the higher bound, of
/// equals those of the lower corner.
#[derive(Debug, Clone, Copy)]
struct Open<const D: usize> {
    bound: f64,
    node: u32,
    region: Bounds<D>,
}

/// An item that was found. Better is greater; of equals the lower number is better.
#[derive(Debug, Clone, Copy)]
struct Found {
    score: f64,
    item: u32,
}

impl<const D: usize> Ord for Open<D> {
    fn cmp(&self, other: &Self) -> Ordering {
        let corners =
            self.region.iter().zip(&other.region).map(|(own, its)| its[0].total_cmp(&own[0]));
        corners.fold(self.bound.total_cmp(&other.bound), Ordering::then)
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.item.cmp(&self.item))
    }
}

macro_rules! compared {
    ($ranked:ty, $($parameters:tt)*) => {
        impl $($parameters)* PartialOrd for $ranked {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $($parameters)* PartialEq for $ranked {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl $($parameters)* Eq for $ranked {}
    };
}
compared!(Open<D>, <const D: usize>);
compared!(Found,);

/// The best so far.
struct Best {
    count: usize,
    floor: f64,
    found: BinaryHeap<Reverse<Found>>,
}

impl Best {
    /// No item below this is among the best.
    fn bar(&self) -> f64 {
        let worst = self.found.peek().filter(|_| self.found.len() == self.count);
        worst.map_or(self.floor, |worst| worst.0.score)
    }

    fn take(&mut self, item: Found) {
        if self.found.len() < self.count {
            self.found.push(Reverse(item));
        } else if let Some(mut worst) = self.found.peek_mut().filter(|worst| item > worst.0) {
            *worst = Reverse(item);
        }
    }
}

/// Items 0..len, each at a point of `D` axes or nowhere.
#[derive(Debug, Clone)]
pub struct BoxTree<const D: usize> {
    region: Bounds<D>,
    units: [f32; D],
    nodes: Vec<Node>,
    unused: Vec<u32>,
    /// One more than the leaf; 0: nowhere.
    leaves: Vec<u32>,
}

impl<const D: usize> BoxTree<D> {
    /// A tree of some of the items 0..`len`, all of them within `region`. A unit along one axis
    /// should move scores about as far as one along another.
    pub fn new(len: usize, region: Bounds<D>, units: [f32; D], mut entries: Vec<Entry<D>>) -> Self {
        let root = Node { parent: ROOT, kind: Kind::Leaf(vec![]) };
        let mut tree =
            Self { region, units, nodes: vec![root], unused: vec![], leaves: vec![0; len] };
        tree.lay_out(ROOT, &mut entries, region);
        tree
    }

    /// Puts an item at its present point by `point_of`, within the region; `point_of` must also
    /// return the points at which the others were put.
    ///
    /// # Panics
    /// There is no such item.
    pub fn put(&mut self, item: u32, point_of: impl Fn(u32) -> [f32; D]) {
        let point = point_of(item);
        if self.leaves[item as usize] == self.leaf_at(&point).0 + 1 {
            return;
        }
        self.remove(item);
        // Found again, for the item may have been the last to keep leaves apart.
        let (leaf, region) = self.leaf_at(&point);
        self.leaves[item as usize] = leaf + 1;
        self.climb(leaf, |_, kind| match kind {
            Kind::Fork { len, .. } => *len += 1,
            Kind::Leaf(items) => items.push(item),
        });
        let Kind::Leaf(items) = &self.nodes[leaf as usize].kind else {
            return;
        };
        if items.len() > LEAF && self.cut(&region).is_some() {
            let mut entries: Vec<Entry<D>> =
                items.iter().map(|&item| (point_of(item), item)).collect();
            self.lay_out(leaf, &mut entries, region);
        }
    }

    /// Takes an item out, if it is in.
    ///
    /// # Panics
    /// There is no such item.
    pub fn remove(&mut self, item: u32) {
        let Some(leaf) = std::mem::take(&mut self.leaves[item as usize]).checked_sub(1) else {
            return;
        };
        let mut small = None;
        self.climb(leaf, |node, kind| match kind {
            Kind::Fork { len, .. } => {
                *len -= 1;
                small = (*len as usize <= LEAF).then_some(node).or(small);
            }
            Kind::Leaf(items) => {
                items.retain(|&other| other != item);
                if items.len() < items.capacity() / SLACK {
                    items.shrink_to_fit();
                }
            }
        });
        if let Some(top) = small {
            self.collapse(top);
        }
    }

    /// Up to `count` items with their scores, best first, of those that score at least `floor`; of
    /// equal scores the lower item is better. No item that is left out is better by more than
    /// `slack` than one that is found, or than the floor.
    ///
    /// `scores` appends the scores of those of some items that are wanted. `bound` of a box must be
    /// at least the score of every item at a point within.
    pub fn best(
        &self,
        count: usize,
        floor: f64,
        slack: f64,
        bound: impl Fn(&Bounds<D>) -> f64,
        scores: impl Fn(&[u32], &mut Vec<(f64, u32)>),
    ) -> Vec<(f64, u32)> {
        let mut best = Best { count, floor, found: BinaryHeap::with_capacity(count) };
        let mut open =
            BinaryHeap::from([Open { bound: f64::INFINITY, node: ROOT, region: self.region }]);
        let mut of_leaf = vec![];
        while let Some(next) =
            open.pop().filter(|next| count > 0 && next.bound >= best.bar() + slack)
        {
            match &self.nodes[next.node as usize].kind {
                &Kind::Fork { axis, middle, children, .. } => {
                    let halves = halves(next.region, usize::from(axis), middle);
                    for (node, region) in
                        children.into_iter().zip(halves).filter(|&(node, _)| !self.is_empty(node))
                    {
                        open.push(Open { bound: bound(&region), node, region });
                    }
                }
                Kind::Leaf(items) => {
                    of_leaf.clear();
                    scores(items, &mut of_leaf);
                    let items = of_leaf.iter().map(|&(score, item)| Found { score, item });
                    items.filter(|item| item.score >= floor).for_each(|item| best.take(item));
                }
            }
        }
        best.found
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(found)| (found.score, found.item))
            .collect()
    }

    fn is_empty(&self, node: u32) -> bool {
        matches!(&self.nodes[node as usize].kind, Kind::Leaf(items) if items.is_empty())
    }

    /// The leaf of a point, and its region.
    fn leaf_at(&self, point: &[f32; D]) -> (u32, Bounds<D>) {
        let (mut node, mut region) = (ROOT, self.region);
        while let Kind::Fork { axis, middle, children, .. } = self.nodes[node as usize].kind {
            let axis = usize::from(axis);
            let half = usize::from(point[axis] >= middle);
            (node, region) = (children[half], halves(region, axis, middle)[half]);
        }
        (node, region)
    }

    /// Visits a leaf and all nodes above it.
    fn climb(&mut self, leaf: u32, mut visit: impl FnMut(u32, &mut Kind)) {
        let mut number = leaf;
        loop {
            let node = &mut self.nodes[number as usize];
            visit(number, &mut node.kind);
            if number == ROOT {
                break;
            }
            number = node.parent;
        }
    }

    /// Makes a node the subtree of these items.
    fn lay_out(&mut self, node: u32, entries: &mut [Entry<D>], region: Bounds<D>) {
        let Some((axis, middle)) = self.cut(&region).filter(|_| entries.len() > LEAF) else {
            for &(_, item) in &*entries {
                self.leaves[item as usize] = node + 1;
            }
            self.nodes[node as usize].kind =
                Kind::Leaf(entries.iter().map(|&(_, item)| item).collect());
            return;
        };
        let children = [self.allocate(node), self.allocate(node)];
        self.nodes[node as usize].kind =
            Kind::Fork { axis: axis as u8, middle, children, len: entries.len() as u32 };
        let (below, above) = parted(entries, |(point, _)| point[axis] < middle);
        let [lower, upper] = halves(region, axis, middle);
        self.lay_out(children[0], below, lower);
        self.lay_out(children[1], above, upper);
    }

    /// The axis of the longest side, and its middle; none if all sides are short.
    fn cut(&self, region: &Bounds<D>) -> Option<(usize, f32)> {
        let side = |axis: usize| (region[axis][1] - region[axis][0]) / self.units[axis];
        let middle = |axis: usize| f32::midpoint(region[axis][0], region[axis][1]);
        // Between neighboring numbers of single precision there is no middle.
        let is_cut = |&axis: &usize| {
            side(axis) > SHORTEST_SIDE
                && region[axis][0] < middle(axis)
                && middle(axis) < region[axis][1]
        };
        let axis = (0..D).filter(is_cut).max_by(|&a, &b| side(a).total_cmp(&side(b)))?;
        Some((axis, middle(axis)))
    }

    fn allocate(&mut self, parent: u32) -> u32 {
        let node = Node { parent, kind: Kind::Leaf(vec![]) };
        if let Some(number) = self.unused.pop() {
            self.nodes[number as usize] = node;
            return number;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Makes a subtree one leaf.
    fn collapse(&mut self, top: u32) {
        let (mut items, mut below) = (vec![], vec![top]);
        while let Some(number) = below.pop() {
            match std::mem::replace(&mut self.nodes[number as usize].kind, Kind::Leaf(vec![])) {
                Kind::Fork { children, .. } => {
                    below.extend(children);
                    self.unused.extend(children);
                }
                Kind::Leaf(of_leaf) => items.extend(of_leaf),
            }
        }
        for &item in &items {
            self.leaves[item as usize] = top + 1;
        }
        self.nodes[top as usize].kind = Kind::Leaf(items);
    }
}

fn halves<const D: usize>(region: Bounds<D>, axis: usize, middle: f32) -> [Bounds<D>; 2] {
    let (mut lower, mut upper) = (region, region);
    (lower[axis][1], upper[axis][0]) = (middle, middle);
    [lower, upper]
}

/// Brings the items that belong first to the front, in place.
fn parted<T>(items: &mut [T], is_first: impl Fn(&T) -> bool) -> (&mut [T], &mut [T]) {
    let mut first = 0;
    for index in 0..items.len() {
        if is_first(&items[index]) {
            items.swap(first, index);
            first += 1;
        }
    }
    items.split_at_mut(first)
}
