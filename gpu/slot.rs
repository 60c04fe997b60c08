//! Slots: 128 bytes of which every word says which lap of the ring wrote it.
//!
//! A word is `{sequence: high 32 bits, data: low 32 bits}`. Detecting a slot and fetching it is
//! one read: either every word carries the expected sequence, or the slot is not there yet.
//!
//! Invariants
//! - All sixteen words are rewritten each lap, so a mix of two laps is never taken for a slot.
//! - Zero is no sequence: memory that was never written holds no slot.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::SLOT_WORDS;

/// The data of one slot.
pub type SlotData = [u32; SLOT_WORDS];

/// Which lap of a ring wrote a word. Never zero; compared by equality only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(u32);

impl Sequence {
    /// The sequence of the slot at `position` (slots since the ring began) in a ring of `slots`
    /// slots. `slots` of zero counts as one.
    pub fn of(position: u64, slots: u32) -> Self {
        let lap = position / u64::from(slots.max(1));
        // One less than 2^32 values are in use, so that zero never is.
        let raw = lap % u64::from(u32::MAX) + 1;
        Self(u32::try_from(raw).unwrap_or(u32::MAX))
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }

    const fn stamp(self, data: u32) -> u64 {
        ((self.0 as u64) << 32) | data as u64
    }
}

/// One slot in the shared memory.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Slot {
    words: [AtomicU64; SLOT_WORDS],
}

impl Slot {
    /// Writes every word. The caller is the only writer, and fences around it.
    pub fn write(&self, sequence: Sequence, data: &SlotData) {
        for (word, data) in self.words.iter().zip(data) {
            word.store(sequence.stamp(*data), Ordering::Relaxed);
        }
    }

    /// The data, if every word carries `sequence`. The caller fences before it acts on it.
    pub fn read(&self, sequence: Sequence) -> Option<SlotData> {
        let mut data = SlotData::default();
        for (word, data) in self.words.iter().zip(&mut data) {
            let raw = word.load(Ordering::Relaxed);
            if raw >> 32 != u64::from(sequence.get()) {
                return None;
            }
            *data = low(raw);
        }
        Some(data)
    }

    /// The data of a slot whose sequence the reader does not know (a heartbeat), if it is whole.
    pub fn read_any(&self) -> Option<SlotData> {
        let raw = self.words.first()?.load(Ordering::Relaxed) >> 32;
        let sequence = Sequence(u32::try_from(raw).ok().filter(|raw| *raw != 0)?);
        self.read(sequence)
    }

    /// Whether the first word carries `sequence`: a cheap hint that the slot may be there.
    pub fn hints(&self, sequence: Sequence) -> bool {
        self.words
            .first()
            .is_some_and(|word| word.load(Ordering::Relaxed) >> 32 == u64::from(sequence.get()))
    }

    /// A whole word, for the few slots that carry no sequence.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.get(index)
    }
}

/// The low half of a word.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
pub(crate) const fn low(word: u64) -> u32 {
    word as u32
}

/// The high half of a word.
pub(crate) const fn high(word: u64) -> u32 {
    low(word >> 32)
}

/// Two halves as one number.
pub(crate) const fn join(low: u32, high: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_any_mix_of_two_laps_is_refused() {
        let (old, new) = (Sequence::of(5, 64), Sequence::of(69, 64));
        let before: SlotData = std::array::from_fn(|i| u32::try_from(i).unwrap());
        let after: SlotData = std::array::from_fn(|i| u32::try_from(i + 100).unwrap());
        let slot = Slot::default();
        for mask in 0..1_u32 << SLOT_WORDS {
            for (i, word) in slot.words.iter().enumerate() {
                let raw = if mask >> i & 1 == 1 {
                    new.stamp(after[i])
                } else {
                    old.stamp(before[i])
                };
                word.store(raw, Ordering::Relaxed);
            }
            assert_eq!(slot.read(new).is_some(), mask == 0xffff, "mask {mask:04x}");
            assert_eq!(slot.read(old).is_some(), mask == 0, "mask {mask:04x}");
        }
        assert_eq!(slot.read(new), Some(after));
    }

    #[test]
    fn memory_that_was_never_written_holds_no_slot() {
        let slot = Slot::default();
        assert_eq!(slot.read(Sequence::of(0, 16)), None);
        assert_eq!(slot.read_any(), None);
        assert!(!slot.hints(Sequence::of(0, 16)));
    }

    #[test]
    fn the_sequence_is_never_zero_and_differs_between_neighbouring_laps() {
        for lap in [
            0,
            1,
            u64::from(u32::MAX) - 2,
            u64::from(u32::MAX) - 1,
            u64::from(u32::MAX),
        ] {
            let (this, next) = (Sequence::of(lap * 16, 16), Sequence::of((lap + 1) * 16, 16));
            assert_ne!(this.get(), 0);
            assert_ne!(this, next);
            assert_eq!(this, Sequence::of(lap * 16 + 15, 16));
        }
    }
}
