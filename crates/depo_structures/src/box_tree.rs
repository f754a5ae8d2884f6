//! The best of many items, under any score that can be bounded over a box of the points at which they lie.
//!
//! A k-d tree with buckets (Bentley, "Multidimensional binary search trees used for associative searching", 1975), searched best-first (Hjaltason and
//! Samet, "Distance browsing in spatial databases", 1999). Nodes halve their region, so that the depth is bounded whatever the order of arrival; each
//! knows the box of its items, which is what is bounded.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Least and greatest coordinate by axis.
pub type Bounds<const D: usize> = [[f32; 2]; D];

/// Items of a leaf before it is split. Half as many in a whole subtree make it a leaf again.
const LEAF: usize = 64;

/// Items that differ by less than this share of the axis' unit are not told apart.
const RESOLUTION: f32 = 1e-3;

/// A leaf gives memory back when it uses less than one part in so many.
const SLACK: usize = 4;

const ROOT: u32 = 0;

#[derive(Debug, Clone)]
enum Kind {
    Leaf(Vec<u32>),
    /// Items below `middle` on `axis` are in the first child.
    Fork { axis: u8, middle: f32, children: [u32; 2], len: u32 },
}

#[derive(Debug, Clone)]
struct Node<const D: usize> {
    /// Holds every item below; items that left may have made it smaller.
    bounds: Bounds<D>,
    /// The root's is the root.
    parent: u32,
    kind: Kind,
}

/// An item and where it lies.
type Entry<const D: usize> = ([f32; D], u32);

/// Better is greater; of equals the lower number is better.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    score: f64,
    number: u32,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// Items 0..len, each at a point of `D` axes or nowhere.
#[derive(Debug, Clone)]
pub struct BoxTree<const D: usize> {
    region: Bounds<D>,
    units: [f32; D],
    nodes: Vec<Node<D>>,
    unused: Vec<u32>,
    /// One more than the leaf; 0: nowhere.
    leaves: Vec<u32>,
}

impl<const D: usize> BoxTree<D> {
    /// A tree of some of the items 0..`len`. `region` holds all points that will ever be (others are found as surely, but slower); along each axis, a
    /// distance of a unit matters as much to scores as one along any other. No coordinate may be NaN.
    pub fn new(len: usize, region: Bounds<D>, units: [f32; D], mut entries: Vec<Entry<D>>) -> Self {
        let mut tree = Self { region, units, nodes: vec![], unused: vec![], leaves: vec![0; len] };
        let root = tree.allocate(ROOT);
        tree.lay_out(root, &mut entries, region);
        tree
    }

    /// Puts an item where `point_of` says it is now; `point_of` must hold for the items put before, too.
    ///
    /// # Panics
    /// There is no such item.
    pub fn put(&mut self, item: u32, point_of: impl Fn(u32) -> [f32; D]) {
        let point = point_of(item);
        let mut leaf = self.leaf_at(&point);
        let stays = self.leaves[item as usize] == leaf + 1;
        if !stays {
            self.remove(item);
            // It may have been merged with others.
            leaf = self.leaf_at(&point);
            self.leaves[item as usize] = leaf + 1;
        }
        self.climb(leaf, |node| {
            extend(&mut node.bounds, &point);
            match &mut node.kind {
                Kind::Fork { len, .. } => *len += u32::from(!stays),
                Kind::Leaf(items) if !stays => items.push(item),
                Kind::Leaf(_) => {}
            }
        });
        self.split_if_full(leaf, point_of);
    }

    /// Takes an item out, if it is in.
    ///
    /// # Panics
    /// There is no such item.
    pub fn remove(&mut self, item: u32) {
        let Some(leaf) = std::mem::take(&mut self.leaves[item as usize]).checked_sub(1) else { return };
        let mut is_small = vec![];
        self.climb(leaf, |node| match &mut node.kind {
            Kind::Fork { len, .. } => {
                *len -= 1;
                is_small.push(*len as usize <= LEAF / 2);
            }
            Kind::Leaf(items) => {
                items.retain(|&other| other != item);
                if items.len() < items.capacity() / SLACK {
                    items.shrink_to(2 * items.len());
                }
                is_small.push(false);
            }
        });
        if let Some(height) = is_small.iter().rposition(|&small| small) {
            let top = (0..height).fold(leaf, |node, _| self.nodes[node as usize].parent);
            self.collapse(top);
        }
    }

    /// Up to `count` items with their scores, best first, of those that score at least `floor`; of equal scores the lower item is better. `score` says
    /// none of an item that is not wanted. `bound` of a box must be at least the score of every item at a point within it.
    ///
    /// What is found depends on the scores alone, not on the order in which items were put.
    pub fn best(
        &self,
        count: usize,
        floor: f64,
        bound: impl Fn(&Bounds<D>) -> f64,
        score: impl Fn(u32) -> Option<f64>,
    ) -> Vec<(f64, u32)> {
        let mut found: BinaryHeap<Reverse<Ranked>> = BinaryHeap::with_capacity(count + 1);
        let mut open = BinaryHeap::from([Ranked { score: f64::INFINITY, number: ROOT }]);
        while let Some(next) = open.pop() {
            let bar = |found: &BinaryHeap<Reverse<Ranked>>| if found.len() < count { None } else { found.peek().map(|worst| worst.0) };
            let least = bar(&found).map_or(floor, |worst| worst.score);
            if count == 0 || next.score < least {
                break;
            }
            match &self.nodes[next.number as usize].kind {
                Kind::Fork { children, .. } => {
                    let child = |&number: &u32| Ranked { score: self.bound_of(number, &bound), number };
                    open.extend(children.iter().map(child).filter(|child| child.score >= least));
                }
                Kind::Leaf(items) => {
                    for &number in items {
                        let Some(score) = score(number).filter(|&score| score >= floor) else { continue };
                        let item = Ranked { score, number };
                        if bar(&found).is_none_or(|worst| item > worst) {
                            found.push(Reverse(item));
                            if found.len() > count {
                                found.pop();
                            }
                        }
                    }
                }
            }
        }
        found.into_sorted_vec().into_iter().map(|Reverse(item)| (item.score, item.number)).collect()
    }

    fn bound_of(&self, node: u32, bound: impl Fn(&Bounds<D>) -> f64) -> f64 {
        let bounds = &self.nodes[node as usize].bounds;
        let is_empty = bounds[0][0] > bounds[0][1];
        if is_empty { f64::NEG_INFINITY } else { bound(bounds) }
    }

    fn leaf_at(&self, point: &[f32; D]) -> u32 {
        let mut node = ROOT;
        while let Kind::Fork { axis, middle, children, .. } = self.nodes[node as usize].kind {
            node = children[usize::from(point[usize::from(axis)] >= middle)];
        }
        node
    }

    /// Visits a leaf and all nodes above it.
    fn climb(&mut self, leaf: u32, mut visit: impl FnMut(&mut Node<D>)) {
        let mut number = leaf;
        loop {
            let node = &mut self.nodes[number as usize];
            visit(node);
            if number == ROOT {
                break;
            }
            number = node.parent;
        }
    }

    fn split_if_full(&mut self, leaf: u32, point_of: impl Fn(u32) -> [f32; D]) {
        let Kind::Leaf(items) = &self.nodes[leaf as usize].kind else { return };
        // What cannot be told apart is tried again each time that there is twice as much of it.
        if items.len() <= LEAF || !(items.len() - 1).is_power_of_two() {
            return;
        }
        let mut entries: Vec<Entry<D>> = items.iter().map(|&item| (point_of(item), item)).collect();
        let region = self.region_of(leaf);
        self.lay_out(leaf, &mut entries, region);
    }

    /// The region that the nodes above leave to one.
    fn region_of(&self, node: u32) -> Bounds<D> {
        let (mut region, mut below) = (self.region, node);
        while below != ROOT {
            let above = self.nodes[below as usize].parent;
            if let Kind::Fork { axis, middle, children, .. } = self.nodes[above as usize].kind {
                let [low, high] = &mut region[usize::from(axis)];
                (*low, *high) = if children[0] == below { (*low, high.min(middle)) } else { (low.max(middle), *high) };
            }
            below = above;
        }
        region
    }

    /// Makes a node the subtree of these items.
    fn lay_out(&mut self, node: u32, entries: &mut [Entry<D>], region: Bounds<D>) {
        let mut bounds = [[f32::INFINITY, f32::NEG_INFINITY]; D];
        entries.iter().for_each(|(point, _)| extend(&mut bounds, point));
        self.nodes[node as usize].bounds = bounds;
        let Some((axis, middle)) = self.cut(&bounds, &region).filter(|_| entries.len() > LEAF) else {
            entries.iter().for_each(|&(_, item)| self.leaves[item as usize] = node + 1);
            self.nodes[node as usize].kind = Kind::Leaf(entries.iter().map(|&(_, item)| item).collect());
            return;
        };
        let children = [self.allocate(node), self.allocate(node)];
        let len = entries.len() as u32;
        self.nodes[node as usize].kind = Kind::Fork { axis: axis as u8, middle, children, len };
        let (below, above) = parted(entries, |(point, _)| point[axis] < middle);
        let (mut lower, mut upper) = (region, region);
        (lower[axis][1], upper[axis][0]) = (middle, middle);
        self.lay_out(children[0], below, lower);
        self.lay_out(children[1], above, upper);
    }

    /// The axis along which items differ most, and the middle of the region there; none if they hardly differ.
    fn cut(&self, bounds: &Bounds<D>, region: &Bounds<D>) -> Option<(usize, f32)> {
        let width = |axis: usize| (bounds[axis][1] - bounds[axis][0]) / self.units[axis];
        let axis = (0..D).max_by(|&a, &b| width(a).total_cmp(&width(b)))?;
        let middle = f32::midpoint(region[axis][0], region[axis][1]);
        (width(axis) > RESOLUTION && middle > region[axis][0] && middle < region[axis][1]).then_some((axis, middle))
    }

    fn allocate(&mut self, parent: u32) -> u32 {
        let node = Node { bounds: [[0.0; 2]; D], parent, kind: Kind::Leaf(vec![]) };
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
        items.iter().for_each(|&item| self.leaves[item as usize] = top + 1);
        self.nodes[top as usize].kind = Kind::Leaf(items);
    }
}

fn extend<const D: usize>(bounds: &mut Bounds<D>, point: &[f32; D]) {
    for ([low, high], &coordinate) in bounds.iter_mut().zip(point) {
        *low = low.min(coordinate);
        *high = high.max(coordinate);
    }
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
