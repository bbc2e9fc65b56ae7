//! The prefix cache: which finished sequences are kept ("parked"), and which of them begins like a prompt.
//!
//! A radix tree over token ids for each salt, whose leaves are the parked sequences, and the order in which
//! they were used. It only keeps account: reusing, forking, truncating and freeing sequences is the caller's.
//!
//! Source: Zheng et al. 2024, "SGLang: Efficient Execution of Structured Language Model Programs", section 3
//! (RadixAttention). Here KV memory belongs to whole sequences, so only leaves are held, never inner nodes.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use crate::executor::SeqId;

/// How much may be parked; 0 of either parks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixLimits {
    /// Parked sequences.
    pub sequences: usize,
    /// Tokens of all parked sequences.
    pub tokens: u64,
    /// Forks share memory with what they were forked from: tokens in common count once, else for each.
    pub shared: bool,
}

/// The parked sequence that has most in common with a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    pub seq: SeqId,
    /// Tokens in common, at least 1.
    pub len: u32,
    /// Tokens the parked sequence has; equal to `len` if it is matched whole.
    pub parked_len: u32,
}

/// The parked sequences.
pub struct PrefixCache {
    limits: PrefixLimits,
    nodes: Slab,
    roots: HashMap<Arc<str>, NodeId>,
    leaves: HashMap<SeqId, NodeId>,
    /// Leaves by the time of their last use.
    by_use: BTreeMap<u64, NodeId>,
    /// Counts uses; the time of this file.
    uses: u64,
    tokens: u64,
    tokens_unshared: u64,
}

impl PrefixCache {
    pub fn new(limits: PrefixLimits) -> Self {
        PrefixCache {
            limits,
            nodes: Slab::default(),
            roots: HashMap::new(),
            leaves: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            tokens: 0,
            tokens_unshared: 0,
        }
    }

    /// The parked sequence of this salt that has the longest prefix in common with `tokens`: of equally long
    /// ones the one that is matched whole, else the latest used. `None` if not even one token is in common.
    ///
    /// The order of use stays as it is. Time: O(`len`) comparisons of tokens.
    pub fn find(&self, salt: &str, tokens: &[u32]) -> Option<Match> {
        let reached = self.descend(*self.roots.get(salt)?, tokens);
        if reached.matched == 0 {
            return None;
        }
        // All leaves below have the same prefix in common, and a leaf matched whole has none beside it.
        let parked = self.parked(self.nodes[reached.node].latest);
        Some(Match { seq: parked.seq, len: reached.matched as u32, parked_len: parked.len })
    }

    /// Marks a parked sequence as just used; any other is ignored.
    pub fn touch(&mut self, seq: SeqId) {
        if let Some(&leaf) = self.leaves.get(&seq) {
            self.touch_leaf(leaf);
        }
    }

    /// Takes a parked sequence out, so that the caller owns it again. False if it is not parked.
    pub fn take(&mut self, seq: SeqId) -> bool {
        let Some(&leaf) = self.leaves.get(&seq) else { return false };
        self.remove(leaf);
        true
    }

    /// Parks a sequence whose KV holds exactly `tokens`. Returns the sequences that the caller is to free:
    ///
    /// - the given one, if it is empty, longer than the whole budget, or another parked one of this salt begins
    ///   with all of it, which then counts as just used in its place;
    /// - the parked one that it begins with, since it serves every prompt that one would;
    /// - the least recently used ones beyond the limits, oldest first.
    pub fn park(&mut self, salt: &Arc<str>, tokens: &[u32], seq: SeqId) -> Vec<SeqId> {
        self.take(seq);
        let Some(len) = self.parkable(tokens) else { return vec![seq] };
        let root = self.root(salt);
        let reached = self.descend(root, tokens);
        let rest = &tokens[reached.matched..];
        if rest.is_empty() {
            self.touch_leaf(self.nodes[reached.node].latest);
            return vec![seq];
        }
        let mut freed = Vec::new();
        let node = &self.nodes[reached.node];
        let leaf = if reached.within < node.edge.len() {
            let fork = self.split(reached.node, reached.within);
            self.attach(fork, rest)
        } else if node.parked.is_some() {
            freed.push(self.extend(reached.node, rest));
            reached.node
        } else {
            self.attach(reached.node, rest)
        };
        self.settle(leaf, Parked { seq, len, used: 0, salt: salt.clone() });
        while self.over_limits() {
            freed.extend(self.evict());
        }
        freed
    }

    /// Takes out the least recently used.
    pub fn evict(&mut self) -> Option<SeqId> {
        let (_, &leaf) = self.by_use.first_key_value()?;
        Some(self.remove(leaf))
    }

    /// Parked sequences.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Tokens in the trees: those that parked sequences have in common are counted once.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sum of the lengths of all parked sequences: what they hold where forks copy.
    pub fn tokens_unshared(&self) -> u64 {
        self.tokens_unshared
    }

    /// The length, if a cache that held nothing else could hold it.
    fn parkable(&self, tokens: &[u32]) -> Option<u32> {
        let len = u32::try_from(tokens.len()).ok()?;
        let fits = self.limits.sequences > 0 && u64::from(len) <= self.limits.tokens;
        (len > 0 && fits).then_some(len)
    }

    fn over_limits(&self) -> bool {
        let tokens = if self.limits.shared { self.tokens } else { self.tokens_unshared };
        self.leaves.len() > self.limits.sequences || tokens > self.limits.tokens
    }

    /// The root of a salt's tree, planted if there is none.
    fn root(&mut self, salt: &Arc<str>) -> NodeId {
        if let Some(&root) = self.roots.get(salt) {
            return root;
        }
        let root = self.nodes.insert(Node::default());
        self.roots.insert(salt.clone(), root);
        root
    }

    /// Follows `tokens` from a root as far as the tree goes.
    fn descend(&self, root: NodeId, tokens: &[u32]) -> Reached {
        let mut reached = Reached { node: root, matched: 0, within: 0 };
        while reached.within == self.nodes[reached.node].edge.len() {
            let rest = &tokens[reached.matched..];
            let children = &self.nodes[reached.node].children;
            let Some(&child) = rest.first().and_then(|token| children.get(token)) else { break };
            let within = common_prefix(&self.nodes[child].edge, rest);
            reached = Reached { node: child, matched: reached.matched + within, within };
        }
        reached
    }

    /// Cuts the edge to `node` after `at` tokens; returns the new node at the cut.
    fn split(&mut self, node: NodeId, at: usize) -> NodeId {
        let Node { edge, parent, latest, .. } = &mut self.nodes[node];
        let (latest, above) = (*latest, parent.expect("only a root has no parent, and its edge is empty"));
        let (upper, lower) = edge.split_at(at);
        let (upper, lower) = (Box::<[u32]>::from(upper), Box::<[u32]>::from(lower));
        let (first, next) = (upper[0], lower[0]);
        *edge = lower;
        let children = BTreeMap::from([(next, node)]);
        let fork =
            self.nodes.insert(Node { edge: upper, parent: Some(above), children, latest, parked: None });
        self.nodes[node].parent = Some(fork);
        self.nodes[above].children.insert(first, fork);
        fork
    }

    /// A new leaf below `parent`, nothing parked there yet.
    fn attach(&mut self, parent: NodeId, edge: &[u32]) -> NodeId {
        let node = Node { edge: edge.into(), parent: Some(parent), ..Node::default() };
        let leaf = self.nodes.insert(node);
        self.nodes[parent].children.insert(edge[0], leaf);
        self.tokens += edge.len() as u64;
        leaf
    }

    /// Lengthens a leaf's edge and clears what was parked there.
    fn extend(&mut self, leaf: NodeId, rest: &[u32]) -> SeqId {
        let edge = &mut self.nodes[leaf].edge;
        *edge = [&**edge, rest].concat().into();
        self.tokens += rest.len() as u64;
        self.clear(leaf).seq
    }

    /// Parks in a leaf that has nothing parked.
    fn settle(&mut self, leaf: NodeId, parked: Parked) {
        self.leaves.insert(parked.seq, leaf);
        self.tokens_unshared += u64::from(parked.len);
        self.nodes[leaf].parked = Some(parked);
        self.touch_leaf(leaf);
    }

    /// Undoes [`settle`](Self::settle).
    fn clear(&mut self, leaf: NodeId) -> Parked {
        let parked = self.nodes[leaf].parked.take().expect("each leaf has a parked sequence");
        self.leaves.remove(&parked.seq);
        self.by_use.remove(&parked.used);
        self.tokens_unshared -= u64::from(parked.len);
        parked
    }

    fn touch_leaf(&mut self, leaf: NodeId) {
        self.uses += 1;
        let parked = self.nodes[leaf].parked.as_mut().expect("each leaf has a parked sequence");
        let before = std::mem::replace(&mut parked.used, self.uses);
        self.by_use.remove(&before);
        self.by_use.insert(self.uses, leaf);
        let mut above = Some(leaf);
        while let Some(node) = above {
            self.nodes[node].latest = leaf;
            above = self.nodes[node].parent;
        }
    }

    /// Takes a leaf out, and with it the nodes that it leaves without a reason to be.
    fn remove(&mut self, leaf: NodeId) -> SeqId {
        let Parked { seq, salt, .. } = self.clear(leaf);
        let Node { edge, parent, .. } = self.nodes.remove(leaf);
        self.tokens -= edge.len() as u64;
        let parent = parent.expect("a leaf is below a root");
        let Node { children, parent: above, .. } = &mut self.nodes[parent];
        children.remove(&edge[0]);
        match (children.len(), *above) {
            (0, _) => {
                self.nodes.remove(parent);
                self.roots.remove(&salt);
            }
            (1, Some(above)) => {
                self.merge(parent, above);
                self.renew_latest(above, leaf);
            }
            _ => self.renew_latest(parent, leaf),
        }
        seq
    }

    /// Joins an inner node to its only child, which keeps its id.
    fn merge(&mut self, node: NodeId, above: NodeId) {
        let Node { edge, children, .. } = self.nodes.remove(node);
        let (_, child) = children.into_iter().next().expect("one child is left");
        let below = &mut self.nodes[child];
        below.edge = [&*edge, &*below.edge].concat().into();
        below.parent = Some(above);
        self.nodes[above].children.insert(edge[0], child);
    }

    /// Chooses a new latest leaf wherever from `node` upwards it was the one that is gone.
    fn renew_latest(&mut self, node: NodeId, gone: NodeId) {
        let mut above = Some(node);
        while let Some(node) = above
            && self.nodes[node].latest == gone
        {
            let leaves = self.nodes[node].children.values().map(|&child| self.nodes[child].latest);
            let latest = leaves.max_by_key(|&leaf| self.parked(leaf).used);
            self.nodes[node].latest = latest.expect("a node above a leaf has children");
            above = self.nodes[node].parent;
        }
    }

    fn parked(&self, leaf: NodeId) -> &Parked {
        self.nodes[leaf].parked.as_ref().expect("each leaf has a parked sequence")
    }
}

/// Where following a prompt ended.
struct Reached {
    node: NodeId,
    /// Tokens followed in all.
    matched: usize,
    /// Of them, those on the edge to `node`.
    within: usize,
}

/// What a leaf holds.
struct Parked {
    seq: SeqId,
    len: u32,
    used: u64,
    /// By which an emptied tree is found.
    salt: Arc<str>,
}

/// A root, an inner node with at least two children, or a leaf.
#[derive(Default)]
struct Node {
    /// Tokens from the parent to here; empty in a root alone.
    edge: Box<[u32]>,
    parent: Option<NodeId>,
    /// By the first token of their edge.
    children: BTreeMap<u32, NodeId>,
    /// The leaf used last of those below; a leaf names itself.
    latest: NodeId,
    /// In leaves alone.
    parked: Option<Parked>,
}

type NodeId = usize;

/// Nodes by id. Links by id, not by pointer, so that a tree of any depth is dropped without recursion.
#[derive(Default)]
struct Slab {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
}

impl Slab {
    fn insert(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            self.nodes[id] = node;
            return id;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn remove(&mut self, id: NodeId) -> Node {
        self.free.push(id);
        std::mem::take(&mut self.nodes[id])
    }
}

impl Index<NodeId> for Slab {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }
}

impl IndexMut<NodeId> for Slab {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id]
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
