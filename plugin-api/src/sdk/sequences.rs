//! A table of sequences whose handles detect their own staleness.

use super::{Error, Result};

/// Slots with generations: a handle is `slot | generation << 32`, and a freed slot's generation moves on.
pub struct Sequences<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Sequences<T> {
    fn default() -> Self {
        Sequences { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Sequences<T> {
    /// Stores a sequence and returns its handle.
    pub fn insert(&mut self, value: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, value: None });
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(value);
        u64::from(slot) | u64::from(entry.generation) << 32
    }

    /// Number of live sequences.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequence of a handle.
    ///
    /// # Errors
    /// `STALE_SEQUENCE`.
    pub fn get(&self, seq: u64) -> Result<&T> {
        let slot = self.slots.get(seq as u32 as usize);
        slot.filter(|slot| slot.generation == (seq >> 32) as u32)
            .and_then(|slot| slot.value.as_ref())
            .ok_or_else(|| Error::stale(seq))
    }

    /// The sequence of a handle, to change.
    ///
    /// # Errors
    /// `STALE_SEQUENCE`.
    pub fn get_mut(&mut self, seq: u64) -> Result<&mut T> {
        let slot = self.slots.get_mut(seq as u32 as usize);
        slot.filter(|slot| slot.generation == (seq >> 32) as u32)
            .and_then(|slot| slot.value.as_mut())
            .ok_or_else(|| Error::stale(seq))
    }

    /// Takes a sequence out; `None` if the handle is stale.
    pub fn remove(&mut self, seq: u64) -> Option<T> {
        self.get(seq).ok()?;
        let slot = &mut self.slots[seq as u32 as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(seq as u32);
        slot.value.take()
    }

    /// Every live sequence.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_refuses_the_old_handle() {
        let mut table = Sequences::default();
        let old = table.insert("a");
        assert_eq!(table.remove(old), Some("a"));
        assert_eq!(table.remove(old), None);
        let new = table.insert("b");
        assert_eq!(old as u32, new as u32, "the slot is reused");
        assert!(table.get(old).is_err());
        assert_eq!(table.get(new).ok(), Some(&"b"));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_handle_never_made_is_stale() {
        let table: Sequences<()> = Sequences::default();
        assert!(table.get(7 << 32).is_err());
        assert!(table.get(u64::MAX).is_err());
    }
}
