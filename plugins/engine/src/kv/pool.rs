//! Which blocks are free, and how many sequences hold each of the others.
//!
//! It counts; what lies in the blocks is the store's, which block belongs where the sequences' own.

/// The blocks of a model, by number.
pub(super) struct Pool {
    /// How many hold each block that was ever taken.
    owners: Vec<u32>,
    /// Blocks that were given back, the latest last: what it held may still lie in a cache of the processor.
    free: Vec<u32>,
    capacity: usize,
}

impl Pool {
    /// So many blocks, all free.
    pub fn new(capacity: usize) -> Pool {
        Pool { owners: Vec::new(), free: Vec::new(), capacity }
    }

    /// All blocks.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks that somebody holds, each counted once.
    pub fn used(&self) -> usize {
        self.owners.len() - self.free.len()
    }

    /// Blocks that nobody holds.
    pub fn left(&self) -> usize {
        self.capacity - self.used()
    }

    /// Takes a block; `None` if all are taken.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            self.owners[block as usize] = 1;
            return Some(block);
        }
        // A number that was never used: memory behind it is committed as it is written.
        let block = u32::try_from(self.owners.len()).ok().filter(|_| self.owners.len() < self.capacity)?;
        self.owners.push(1);
        Some(block)
    }

    /// One more holds a block.
    pub fn share(&mut self, block: u32) {
        self.owners[block as usize] += 1;
    }

    /// One less holds a block.
    pub fn drop_one(&mut self, block: u32) {
        let owners = &mut self.owners[block as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free.push(block);
        }
    }

    /// Whether several hold a block, so that nobody may write it.
    pub fn is_shared(&self, block: u32) -> bool {
        self.owners[block as usize] > 1
    }
}
