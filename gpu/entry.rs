//! Entries: one operation as it stands on the entry ring, and its encoding.
//!
//! Invariants
//! - Decoding what was encoded gives the same entry; anything else is an error, never a guess.
//! - An entry has 1 to 8 slots and never wraps: a pad of the same encoding fills the ring's end.

use orlop_saga::id::TenantId;
use smallvec::SmallVec;

use crate::layout::{
    ARGS_FIRST, ENTRY_SLOTS_MAX, ENTRY_WORDS_MAX, SLOT_WORDS, WINDOW_WORDS, WINDOWS_MAX,
    entry_word, window_word,
};
use crate::slot::{SlotData, high, join, low};

/// What an operation is called on the ring. Zero is the pad and names no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opcode(u32);

impl Opcode {
    /// The pad.
    pub const PAD: Self = Self(0);
    /// The first opcode of an embedder; those below are ours.
    pub const USER_FIRST: Self = Self(0x4000_0000);

    /// Wraps a raw opcode.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether an embedder may register it.
    pub const fn is_user(self) -> bool {
        self.0 >= Self::USER_FIRST.0
    }
}

/// The only way an operation touches memory: a range of one life of one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// The buffer's slot.
    pub slot: u32,
    /// The buffer's life in that slot.
    pub generation: u32,
    /// First byte, relative to the buffer.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Arguments of an operation.
pub type Args = SmallVec<[u32; 8]>;
/// Windows of an operation.
pub type Windows = SmallVec<[Window; 2]>;

/// One operation, as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What to do.
    pub opcode: Opcode,
    /// [`Entry::RESULT_WINDOW`], or nothing; the other bits are reserved and travel unchanged.
    pub flags: u8,
    /// For whom.
    pub tenant: TenantId,
    /// Names the completion: epoch in the high half, permit in the low half.
    pub ticket: u64,
    /// The ordinal of the attempt.
    pub attempt: u32,
    /// The most tiles allowed; zero leaves it to the device.
    pub tiles_max: u32,
    /// Time left in microseconds; zero is none.
    pub deadline_us: u32,
    /// Argument words.
    pub args: Args,
    /// Memory.
    pub windows: Windows,
}

/// Why an operation has no encoding. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// More windows than an entry carries. Split the work.
    #[error("{windows} windows, an entry carries {windows_max}")]
    Windows {
        /// Windows given.
        windows: usize,
        /// The most.
        windows_max: usize,
    },
    /// Arguments and windows together exceed eight slots. Pass them in a buffer.
    #[error("{words} words, an entry carries {words_max}")]
    Words {
        /// Words needed.
        words: usize,
        /// The most.
        words_max: usize,
    },
}

/// Why slots are no entry. The writer is at fault; the operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The slot count is not 1 to 8, or differs from the words that were given or announced.
    #[error("an entry of {slots} slots is malformed")]
    Shape {
        /// Slots announced.
        slots: u32,
    },
}

/// The data words of an entry: whole slots, at most eight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryWords {
    words: [u32; ENTRY_WORDS_MAX],
    slots: usize,
}

impl EntryWords {
    /// No slots yet; the reader adds them.
    pub fn empty() -> Self {
        Self {
            words: [0; ENTRY_WORDS_MAX],
            slots: 0,
        }
    }

    /// A pad of `slots` slots; its ticket is zero.
    pub fn pad(slots: usize) -> Self {
        let mut pad = Self::empty();
        pad.slots = slots.clamp(1, ENTRY_SLOTS_MAX);
        pad.set(entry_word::SHAPE, u32::try_from(pad.slots).unwrap_or(1));
        pad
    }

    /// Adds the next slot; what exceeds eight is ignored (and then refused as malformed).
    pub fn push(&mut self, slot: &SlotData) {
        let start = self.slots * SLOT_WORDS;
        if let Some(words) = self.words.get_mut(start..start + SLOT_WORDS) {
            words.copy_from_slice(slot);
            self.slots += 1;
        }
    }

    /// The number of slots.
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// The slots in order.
    pub fn iter(&self) -> impl Iterator<Item = &SlotData> {
        self.words
            .as_chunks::<SLOT_WORDS>()
            .0
            .iter()
            .take(self.slots)
    }

    /// The opcode; a pad has no other content.
    pub fn opcode(&self) -> Opcode {
        Opcode(self.get(entry_word::OPCODE))
    }

    /// Overwrites the time left, which is known only when the entry is written.
    pub(crate) fn set_deadline(&mut self, left_us: u32) {
        self.set(entry_word::DEADLINE_US, left_us);
    }

    fn get(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or(0)
    }

    fn set(&mut self, index: usize, data: u32) {
        if let Some(word) = self.words.get_mut(index) {
            *word = data;
        }
    }
}

/// The slot count that the first slot of an entry announces.
pub fn announced_slots(first: &SlotData) -> u32 {
    first[entry_word::SHAPE] & 0xff
}

fn words_needed(args: usize, windows: usize) -> usize {
    SLOT_WORDS + windows * WINDOW_WORDS + args.saturating_sub(ARGS_FIRST)
}

/// Slots that an entry with so many arguments and windows takes.
///
/// # Errors
/// [`EncodeError`]: it does not fit in eight.
pub fn slots_needed(args: usize, windows: usize) -> Result<usize, EncodeError> {
    if windows > WINDOWS_MAX {
        return Err(EncodeError::Windows {
            windows,
            windows_max: WINDOWS_MAX,
        });
    }
    let words = words_needed(args.min(ENTRY_WORDS_MAX * 2), windows);
    if words > ENTRY_WORDS_MAX {
        return Err(EncodeError::Words {
            words,
            words_max: ENTRY_WORDS_MAX,
        });
    }
    Ok(words.div_ceil(SLOT_WORDS))
}

impl Entry {
    /// A flag: the last window is none of the operation's, but where its result goes.
    pub const RESULT_WINDOW: u8 = 1;

    /// Whether the last window is where the result goes.
    pub fn has_result_window(&self) -> bool {
        self.flags & Self::RESULT_WINDOW != 0 && !self.windows.is_empty()
    }

    /// The entry's words.
    ///
    /// # Errors
    /// [`EncodeError`]: it does not fit in eight slots.
    pub fn encode(&self) -> Result<EntryWords, EncodeError> {
        let slots = slots_needed(self.args.len(), self.windows.len())?;
        let mut words = EntryWords::empty();
        words.slots = slots;
        let shape = [
            slots,
            usize::from(self.flags),
            self.args.len(),
            self.windows.len(),
        ];
        let shape = shape.map(|part| u8::try_from(part).unwrap_or(u8::MAX));
        words.set(entry_word::OPCODE, self.opcode.get());
        words.set(entry_word::SHAPE, u32::from_le_bytes(shape));
        words.set(entry_word::TENANT_SLOT, self.tenant.slot());
        words.set(entry_word::TENANT_GENERATION, self.tenant.generation());
        words.set(entry_word::TICKET_LOW, low(self.ticket));
        words.set(entry_word::TICKET_HIGH, high(self.ticket));
        words.set(entry_word::ATTEMPT, self.attempt);
        words.set(entry_word::TILES, self.tiles_max);
        words.set(entry_word::DEADLINE_US, self.deadline_us);
        for (i, window) in self.windows.iter().enumerate() {
            let at = SLOT_WORDS + i * WINDOW_WORDS;
            words.set(at + window_word::SLOT, window.slot);
            words.set(at + window_word::GENERATION, window.generation);
            words.set(at + window_word::OFFSET_LOW, low(window.offset));
            words.set(at + window_word::OFFSET_HIGH, high(window.offset));
            words.set(at + window_word::LENGTH_LOW, low(window.length));
            words.set(at + window_word::LENGTH_HIGH, high(window.length));
        }
        for (i, arg) in self.args.iter().enumerate() {
            words.set(arg_at(i, self.windows.len()), *arg);
        }
        Ok(words)
    }

    /// The entry that these words are.
    ///
    /// # Errors
    /// [`DecodeError`]: the words are no entry.
    pub fn decode(words: &EntryWords) -> Result<Self, DecodeError> {
        let [slots, flags, args, windows] = words.get(entry_word::SHAPE).to_le_bytes();
        let (args, windows) = (usize::from(args), usize::from(windows));
        let malformed = DecodeError::Shape {
            slots: u32::from(slots),
        };
        let needed = slots_needed(args, windows).map_err(|_| malformed)?;
        if usize::from(slots) != words.slots() || needed != words.slots() {
            return Err(malformed);
        }
        Ok(Self {
            opcode: Opcode(words.get(entry_word::OPCODE)),
            flags,
            tenant: TenantId::new(
                words.get(entry_word::TENANT_SLOT),
                words.get(entry_word::TENANT_GENERATION),
            ),
            ticket: ticket_of(words),
            attempt: words.get(entry_word::ATTEMPT),
            tiles_max: words.get(entry_word::TILES),
            deadline_us: words.get(entry_word::DEADLINE_US),
            args: (0..args).map(|i| words.get(arg_at(i, windows))).collect(),
            windows: (0..windows).map(|i| window_of(words, i)).collect(),
        })
    }
}

/// The ticket in an entry's words; stands also in an entry that is otherwise malformed.
pub fn ticket_of(words: &EntryWords) -> u64 {
    join(
        words.get(entry_word::TICKET_LOW),
        words.get(entry_word::TICKET_HIGH),
    )
}

fn arg_at(index: usize, windows: usize) -> usize {
    if index < ARGS_FIRST {
        entry_word::ARGS + index
    } else {
        SLOT_WORDS + windows * WINDOW_WORDS + index - ARGS_FIRST
    }
}

fn window_of(words: &EntryWords, index: usize) -> Window {
    let at = SLOT_WORDS + index * WINDOW_WORDS;
    Window {
        slot: words.get(at + window_word::SLOT),
        generation: words.get(at + window_word::GENERATION),
        offset: join(
            words.get(at + window_word::OFFSET_LOW),
            words.get(at + window_word::OFFSET_HIGH),
        ),
        length: join(
            words.get(at + window_word::LENGTH_LOW),
            words.get(at + window_word::LENGTH_HIGH),
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::layout::ARGS_MAX;

    prop_compose! {
        fn window()(slot: u32, generation: u32, offset: u64, length: u64) -> Window {
            Window { slot, generation, offset, length }
        }
    }

    prop_compose! {
        fn entry()(
            head in any::<(u32, u8, u32, u32, u64)>(),
            rest in any::<(u32, u32, u32)>(),
            args in vec(any::<u32>(), 0..=ARGS_MAX),
            windows in vec(window(), 0..=WINDOWS_MAX),
        ) -> Entry {
            let mut entry = Entry {
                opcode: Opcode(head.0),
                flags: head.1,
                tenant: TenantId::new(head.2, head.3),
                ticket: head.4,
                attempt: rest.0,
                tiles_max: rest.1,
                deadline_us: rest.2,
                args: args.into(),
                windows: windows.into(),
            };
            while slots_needed(entry.args.len(), entry.windows.len()).is_err() {
                entry.args.pop();
            }
            entry
        }
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_entry(entry in entry()) {
            let words = entry.encode().unwrap();
            prop_assert!((1..=ENTRY_SLOTS_MAX).contains(&words.slots()));
            let mut read = EntryWords::empty();
            for slot in words.iter() {
                read.push(slot);
            }
            prop_assert_eq!(&read, &words);
            prop_assert_eq!(announced_slots(words.iter().next().unwrap()) as usize, words.slots());
            prop_assert_eq!(Entry::decode(&read).unwrap(), entry);
        }

        #[test]
        fn arbitrary_words_never_panic_and_never_grow_on_the_way(
            slots in vec(any::<[u32; 16]>(), 0..10)
        ) {
            let mut words = EntryWords::empty();
            for slot in &slots {
                words.push(slot);
            }
            if let Ok(entry) = Entry::decode(&words) {
                prop_assert_eq!(entry.encode().unwrap().slots(), words.slots());
            }
        }
    }

    #[test]
    fn what_exceeds_eight_slots_is_refused_with_amounts() {
        assert_eq!(slots_needed(7, 0), Ok(1));
        assert_eq!(slots_needed(8, 0), Ok(2));
        assert_eq!(slots_needed(7, 2), Ok(2));
        assert_eq!(slots_needed(7, 3), Ok(3));
        assert_eq!(slots_needed(ARGS_MAX, 0), Ok(8));
        let (words, words_max) = (129, 128);
        assert_eq!(
            slots_needed(ARGS_MAX + 1, 0),
            Err(EncodeError::Words { words, words_max })
        );
        let (windows, windows_max) = (18, 17);
        assert_eq!(
            slots_needed(0, 18),
            Err(EncodeError::Windows {
                windows,
                windows_max
            })
        );
    }
}
