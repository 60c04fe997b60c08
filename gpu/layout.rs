//! Layout: where everything lies in the shared memory, and what each word of a slot means.
//!
//! The one place where the byte layout is written down; a CUDA kernel is compiled against the
//! same constants. Every number is little-endian, as the atomics of every supported machine are.
//!
//! Invariants
//! - Sections never overlap, and each begins at a page boundary.
//! - The header is written once, before the device starts, and never changes.

/// Bytes of one slot.
pub const SLOT_BYTES: usize = 128;
/// 64-bit words of one slot.
pub const SLOT_WORDS: usize = 16;
/// The most consecutive slots of one entry.
pub const ENTRY_SLOTS_MAX: usize = 8;
/// Data words of the longest entry.
pub const ENTRY_WORDS_MAX: usize = ENTRY_SLOTS_MAX * SLOT_WORDS;
/// The most windows that one entry carries: eight columns, their bitmaps, and a program.
pub const WINDOWS_MAX: usize = 17;
/// The most argument words that one entry without windows carries.
pub const ARGS_MAX: usize = ENTRY_WORDS_MAX - entry_word::ARGS;
/// Argument words in the first slot.
pub const ARGS_FIRST: usize = SLOT_WORDS - entry_word::ARGS;
/// Data words of one window.
pub const WINDOW_WORDS: usize = 6;
/// The most bytes of a result that travel inside the completion.
pub const INLINE_BYTES: usize = 32;
/// The most bytes of one permit's result area, and so of any result.
pub const RESULT_BYTES_MAX: u32 = 65_536;
/// Identifies the shared memory; the first word of the header.
pub const MAGIC: u64 = u64::from_le_bytes(*b"orlopgpu");
/// Version of everything in this module; the second word of the header.
pub const LAYOUT_VERSION: u64 = 1;
/// Alignment of every section, and of the arena's pages.
pub const PAGE_BYTES: u64 = 4096;
/// Slots of the control ring and of its completions.
pub const CONTROL_SLOTS: u32 = 64;

/// Words of the first slot of an entry.
///
/// After the first slot follow the windows, `WINDOW_WORDS` (6) words each, from
/// word 16 on and packed across slot boundaries; then the arguments that did not fit in the first
/// slot. What is left of the last slot is zero.
pub mod entry_word {
    /// The opcode; zero is a pad, which fills the end of the ring.
    pub const OPCODE: usize = 0;
    /// Slot count in bits 0..8, flags in 8..16, arguments in 16..24, windows in 24..32.
    pub const SHAPE: usize = 1;
    /// The tenant's slot.
    pub const TENANT_SLOT: usize = 2;
    /// The tenant's generation.
    pub const TENANT_GENERATION: usize = 3;
    /// The ticket's low half: permit index and its generation.
    pub const TICKET_LOW: usize = 4;
    /// The ticket's high half: the epoch.
    pub const TICKET_HIGH: usize = 5;
    /// The ordinal of the attempt.
    pub const ATTEMPT: usize = 6;
    /// The most tiles that the publisher allows; zero leaves it to the device's own bound.
    pub const TILES: usize = 7;
    /// Time left when the entry was written, in microseconds; zero is none.
    pub const DEADLINE_US: usize = 8;
    /// The first of seven argument words.
    pub const ARGS: usize = 9;
}

/// Words of a window, relative to its first.
pub mod window_word {
    /// The buffer's slot.
    pub const SLOT: usize = 0;
    /// The buffer's generation.
    pub const GENERATION: usize = 1;
    /// The offset in the buffer, low half.
    pub const OFFSET_LOW: usize = 2;
    /// The offset in the buffer, high half.
    pub const OFFSET_HIGH: usize = 3;
    /// The length, low half.
    pub const LENGTH_LOW: usize = 4;
    /// The length, high half.
    pub const LENGTH_HIGH: usize = 5;
}

/// Words of a completion.
pub mod completion_word {
    /// The ticket's low half.
    pub const TICKET_LOW: usize = 0;
    /// The ticket's high half.
    pub const TICKET_HIGH: usize = 1;
    /// The kind of status.
    pub const STATUS: usize = 2;
    /// The ordinal of the attempt, as in the entry.
    pub const ATTEMPT: usize = 3;
    /// The measured cost in nanoseconds, low half.
    pub const COST_LOW: usize = 4;
    /// The measured cost in nanoseconds, high half.
    pub const COST_HIGH: usize = 5;
    /// The result's length in bytes, low half.
    pub const LENGTH_LOW: usize = 6;
    /// The result's length in bytes, high half.
    pub const LENGTH_HIGH: usize = 7;
    /// The first of eight words of inline result, or the code of a failure or refusal.
    pub const INLINE: usize = 8;
}

/// Words of an order on the control ring, and of its completion.
pub mod control_word {
    /// The command.
    pub const COMMAND: usize = 0;
    /// The order's number, low half. In a completion, the outcome stands at [`COMMAND`].
    pub const ORDER_LOW: usize = 1;
    /// The order's number, high half.
    pub const ORDER_HIGH: usize = 2;
    /// The first of the command's own words.
    pub const BODY: usize = 3;
}

/// Slots of one worker's line.
pub mod worker_slot {
    /// The heartbeat: words 0 and 1 the ticket, 2 and 3 the start of the tile in nanoseconds since
    /// the device was opened, 4 the tile. Ticket zero: between tiles.
    pub const HEARTBEAT: u64 = 0;
    /// Word 0 is one while the worker sleeps or is about to; written by the worker only, whole
    /// (no sequence).
    pub const SLEEPING: u64 = 1;
    /// Slots per worker.
    pub const COUNT: u64 = 2;
}

/// 64-bit words of the header slots, whole (no sequence).
pub mod header_word {
    /// [`MAGIC`](super::MAGIC).
    pub const MAGIC: usize = 0;
    /// [`LAYOUT_VERSION`](super::LAYOUT_VERSION).
    pub const VERSION: usize = 1;
    /// Slots of the entry ring and of the completion ring.
    pub const ENTRY_SLOTS: usize = 2;
    /// Slots of the control ring and of its completions.
    pub const CONTROL_SLOTS: usize = 3;
    /// Permits: result areas.
    pub const TICKETS: usize = 4;
    /// Bytes of one result area.
    pub const RESULT_BYTES: usize = 5;
    /// Workers.
    pub const WORKERS: usize = 6;
    /// Bytes of the buffer arena.
    pub const ARENA_BYTES: usize = 7;
    /// The epoch of this memory.
    pub const EPOCH: usize = 8;
    /// In the second header slot: position after the last entry written; the doorbell.
    pub const DOORBELL: usize = 0;
    /// In the second header slot: the launch of a CUDA kernel that may run. A kernel that was
    /// launched as another stops at the next tile boundary. Host threads have no launches.
    pub const GENERATION: usize = 1;
}

/// Byte offsets of 32-bit words in the header's page that two processes of the host share. Whole
/// (no sequence); a chip has no use for them.
pub mod host_word {
    /// The first byte that belongs to them.
    pub const FIRST: u64 = 1024;
    /// Rung when the device's process has something to look at: entries or orders.
    pub const WORK_BELL: u64 = 1024;
    /// Rung when completions were posted.
    pub const POSTED_BELL: u64 = 1088;
    /// Rung when replies were posted.
    pub const REPLIED_BELL: u64 = 1152;
    /// How often the device's process has heard its bell, as that counts.
    pub const HEARD: u64 = 1216;
    /// How far the device's process is: 0 starting, 1 ready, 2 refused for other operations, 3
    /// refused for anything else.
    pub const STAGE: u64 = 1220;
    /// What both sides' operations hash to, low half and high half.
    pub const OPS_LOW: u64 = 1224;
    /// The high half.
    pub const OPS_HIGH: u64 = 1228;
    /// The process that made the memory.
    pub const PARENT: u64 = 1232;
    /// The most tiles of one task.
    pub const TILES_MAX: u64 = 1236;
    /// Buffer slots.
    pub const BUFFER_SLOTS: u64 = 1240;
    /// How long an idle worker looks before it sleeps, in nanoseconds.
    pub const SPIN_NANOS: u64 = 1244;
}

/// Sizes from which a layout follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Slots of the entry ring; a power of two.
    pub entry_slots: u32,
    /// Permits; a power of two.
    pub tickets: u32,
    /// Bytes of one permit's result area.
    pub result_bytes: u32,
    /// Workers.
    pub workers: u32,
    /// Bytes of the buffer arena.
    pub arena_bytes: u64,
}

/// Byte offsets of the sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What the offsets follow from.
    pub sizes: Sizes,
    /// The entry ring.
    pub entries: u64,
    /// The completion ring.
    pub completions: u64,
    /// The control ring.
    pub control: u64,
    /// The completions of the control ring.
    pub control_done: u64,
    /// The workers' lines.
    pub workers: u64,
    /// The permits' result areas.
    pub results: u64,
    /// The buffer arena; staging lies in it too.
    pub arena: u64,
    /// All of it.
    pub total: u64,
}

impl Layout {
    /// The layout for `sizes`, or `None` if it exceeds 64 bits.
    pub fn of(sizes: Sizes) -> Option<Self> {
        let slot = SLOT_BYTES as u64;
        let ring = u64::from(sizes.entry_slots).checked_mul(slot)?;
        let control_ring = u64::from(CONTROL_SLOTS) * slot;
        let lines = u64::from(sizes.workers).checked_mul(worker_slot::COUNT * slot)?;
        let areas = u64::from(sizes.tickets).checked_mul(u64::from(sizes.result_bytes))?;
        let mut end = PAGE_BYTES;
        let mut place = |bytes: u64| {
            let at = end;
            end = end
                .checked_add(bytes)?
                .checked_next_multiple_of(PAGE_BYTES)?;
            Some(at)
        };
        Some(Self {
            sizes,
            entries: place(ring)?,
            completions: place(ring)?,
            control: place(control_ring)?,
            control_done: place(control_ring)?,
            workers: place(lines)?,
            results: place(areas)?,
            arena: place(sizes.arena_bytes)?,
            total: end,
        })
    }

    /// Where the result area of a ticket begins.
    pub fn result_of(&self, ticket: u64) -> u64 {
        let index = ticket & u64::from(self.sizes.tickets - 1);
        self.results + index * u64::from(self.sizes.result_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other_without_overlap() {
        let sizes = Sizes {
            entry_slots: 64,
            tickets: 128,
            result_bytes: 65_536,
            workers: 3,
            arena_bytes: 1 << 20,
        };
        let layout = Layout::of(sizes).unwrap();
        let ends = [
            (layout.entries, 64 * 128),
            (layout.completions, 64 * 128),
            (layout.control, 64 * 128),
            (layout.control_done, 64 * 128),
            (layout.workers, 3 * 256),
            (layout.results, 128 * 65_536),
            (layout.arena, 1 << 20),
            (layout.total, 0),
        ];
        assert!(layout.entries >= 2 * 128);
        for pair in ends.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            assert_eq!(pair[1].0 % PAGE_BYTES, 0);
        }
        assert_eq!(layout.result_of(0x7_0000_0001), layout.results + 65_536);
        assert_eq!(layout.result_of(0x7_0000_0081), layout.results + 65_536);
    }

    #[test]
    fn sizes_beyond_64_bits_have_no_layout() {
        let sizes = Sizes {
            entry_slots: 64,
            tickets: 64,
            result_bytes: 64,
            workers: 1,
            arena_bytes: u64::MAX - 8192,
        };
        assert_eq!(Layout::of(sizes), None);
    }
}
