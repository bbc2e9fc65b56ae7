//! The fake cache: blocks of states under a real budget, shared by forks until one of them writes.

use sconce_plugin_api::sdk::{Code, Error, Result};

use crate::numbers::EMPTY;

/// Tokens in a block.
pub const BLOCK: usize = 16;

/// All blocks of a model.
pub struct Pool {
    blocks: Vec<Block>,
    free: Vec<u32>,
    capacity: usize,
}

#[derive(Clone, Copy)]
struct Block {
    owners: u32,
    states: [u64; BLOCK],
}

/// The blocks of one sequence; there may be more of them than its length needs, after a reservation.
#[derive(Default)]
pub struct Table {
    blocks: Vec<u32>,
    len: usize,
    /// The state before the first token.
    pub start: u64,
}

impl Table {
    /// An empty sequence.
    pub fn new() -> Self {
        Table { start: EMPTY, ..Table::default() }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Pool {
    /// Room for `tokens`, rounded down to blocks. Memory is taken as it is used.
    pub fn new(tokens: u64) -> Self {
        let capacity = usize::try_from(tokens).unwrap_or(usize::MAX) / BLOCK;
        Pool { blocks: Vec::new(), free: Vec::new(), capacity }
    }

    /// Tokens that fit, over all sequences.
    pub fn capacity_tokens(&self) -> u64 {
        self.capacity as u64 * BLOCK as u64
    }

    /// Tokens whose blocks are taken.
    pub fn used_tokens(&self) -> u64 {
        (self.taken() * BLOCK) as u64
    }

    fn taken(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    /// Blocks that `extra` more tokens of `table` would take, an own copy of a shared end included.
    fn need(&self, table: &Table, extra: usize) -> usize {
        let shared = extra > 0 && self.shared_end(table).is_some();
        (table.len + extra).div_ceil(BLOCK).saturating_sub(table.blocks.len()) + usize::from(shared)
    }

    /// Index in the table of a partly filled block that another sequence holds too.
    fn shared_end(&self, table: &Table) -> Option<usize> {
        let at = table.len / BLOCK;
        let block = *table.blocks.get(at)?;
        (!table.len.is_multiple_of(BLOCK) && self.blocks[block as usize].owners > 1).then_some(at)
    }

    /// Whether all demands fit at once.
    ///
    /// # Errors
    /// KV_FULL.
    pub fn check<'a>(&self, demands: impl Iterator<Item = (&'a Table, usize)>) -> Result<()> {
        let need: usize = demands.map(|(table, extra)| self.need(table, extra)).sum();
        let free = self.capacity - self.taken();
        if need <= free {
            return Ok(());
        }
        let message =
            format!("{need} blocks of {BLOCK} tokens are needed, {free} of {} are free", self.capacity);
        Err(Error::new(Code::KV_FULL, message))
    }

    /// Takes the blocks for `extra` more tokens; [`Pool::check`] said that they fit.
    pub fn reserve(&mut self, table: &mut Table, extra: usize) {
        if let Some(at) = self.shared_end(table).filter(|_| extra > 0) {
            let copy = self.take(self.blocks[table.blocks[at] as usize].states);
            self.drop_owner(std::mem::replace(&mut table.blocks[at], copy));
        }
        while table.blocks.len() * BLOCK < table.len + extra {
            let block = self.take([EMPTY; BLOCK]);
            table.blocks.push(block);
        }
    }

    /// Appends states; their blocks were reserved.
    pub fn append(&mut self, table: &mut Table, states: &[u64]) {
        self.reserve(table, states.len());
        for state in states {
            let block = table.blocks[table.len / BLOCK];
            self.blocks[block as usize].states[table.len % BLOCK] = *state;
            table.len += 1;
        }
    }

    /// The state after the first `len` tokens.
    pub fn state(&self, table: &Table, len: usize) -> u64 {
        match len.checked_sub(1) {
            None => table.start,
            Some(last) => self.blocks[table.blocks[last / BLOCK] as usize].states[last % BLOCK],
        }
    }

    /// Replaces the last state; for faults.
    pub fn spoil(&mut self, table: &mut Table, state: u64) {
        match table.len.checked_sub(1) {
            None => table.start = state,
            Some(last) => {
                table.len = last;
                self.append(table, &[state]);
            }
        }
    }

    /// A sequence that shares the first `len` tokens.
    pub fn fork(&mut self, table: &Table, len: usize) -> Table {
        let blocks = table.blocks[..len.div_ceil(BLOCK)].to_vec();
        blocks.iter().for_each(|block| self.blocks[*block as usize].owners += 1);
        Table { blocks, len, start: table.start }
    }

    /// Keeps the first `len` tokens.
    pub fn truncate(&mut self, table: &mut Table, len: usize) {
        table.len = len;
        for block in table.blocks.split_off(len.div_ceil(BLOCK)) {
            self.drop_owner(block);
        }
    }

    fn take(&mut self, states: [u64; BLOCK]) -> u32 {
        let block = Block { owners: 1, states };
        match self.free.pop() {
            Some(at) => {
                self.blocks[at as usize] = block;
                at
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() as u32 - 1
            }
        }
    }

    fn drop_owner(&mut self, block: u32) {
        let owners = &mut self.blocks[block as usize].owners;
        *owners -= 1;
        if *owners == 0 {
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(pool: &Pool, table: &Table) -> Vec<u64> {
        (1..=table.len()).map(|len| pool.state(table, len)).collect()
    }

    #[test]
    fn a_fork_shares_until_it_writes() {
        let mut pool = Pool::new(64);
        let mut one = Table::new();
        pool.append(&mut one, &(0..20).collect::<Vec<u64>>());
        let mut two = pool.fork(&one, 18);
        assert_eq!(pool.used_tokens(), 32, "both blocks are shared");
        pool.append(&mut two, &[100]);
        assert_eq!(pool.used_tokens(), 48, "the end was copied");
        assert_eq!(states(&pool, &one), (0..20).collect::<Vec<u64>>());
        assert_eq!(states(&pool, &two)[17..], [17, 100]);
        pool.truncate(&mut one, 0);
        pool.truncate(&mut two, 0);
        assert_eq!(pool.used_tokens(), 0);
    }

    #[test]
    fn what_fits_is_what_reserve_takes() {
        let mut pool = Pool::new(70);
        assert_eq!(pool.capacity_tokens(), 64, "whole blocks");
        let (mut one, two) = (Table::new(), Table::new());
        assert!(pool.check([(&one, 33), (&two, 17)].into_iter()).is_err(), "five blocks");
        assert!(pool.check([(&one, 32), (&two, 17)].into_iter()).is_ok(), "four blocks");
        pool.reserve(&mut one, 33);
        assert_eq!(pool.used_tokens(), 48);
        pool.append(&mut one, &[1; 33]);
        assert_eq!(pool.used_tokens(), 48, "the reservation was used");
        assert!(pool.check([(&one, 0)].into_iter()).is_ok());
    }
}
