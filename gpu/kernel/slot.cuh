// Slots: 128 bytes of which every word says which lap of the ring wrote it (see `gpu/slot.rs`).
#pragma once

#include "layout.gen.h"
#include "port.cuh"

namespace orlop {

struct Slot {
    u64 words[layout::SLOT_WORDS];
};
static_assert(sizeof(Slot) == layout::SLOT_BYTES, "a slot of the ring");
static_assert(layout::SLOT_WORDS % LANES == 0 || LANES % layout::SLOT_WORDS == 0, "lanes share it");

struct Ring {
    Slot *slots;
    // The number of slots is a power of two.
    u32 shift;
};

DEVICE u32 slots_of(const Ring &ring) { return 1U << ring.shift; }

DEVICE Slot *slot_at(const Ring &ring, u64 position) {
    return ring.slots + (position & (slots_of(ring) - 1));
}

// The lap modulo 2^32 - 1, plus one: never zero. Folded, as a 64-bit division would be a call.
DEVICE u32 sequence_of(u64 position, u32 shift) {
    u64 lap = position >> shift;
    lap = (lap & 0xffffffffULL) + (lap >> 32);
    lap = (lap & 0xffffffffULL) + (lap >> 32);
    return lap == 0xffffffffULL ? 1 : (u32)lap + 1;
}

DEVICE u64 until_end(const Ring &ring, u64 position) {
    return slots_of(ring) - (position & (slots_of(ring) - 1));
}

// By every lane of a warp: the data of the slot, if every word carries the expected sequence. The
// caller fences before it acts on it.
DEVICE bool read_slot(const Ring &ring, u64 position, u32 *into, u32 lane) {
    const Slot *slot = slot_at(ring, position);
    const u32 sequence = sequence_of(position, ring.shift);
    bool whole = true;
    for (u32 word = lane; word < layout::SLOT_WORDS; word += LANES) {
        const u64 raw = ld_relaxed_sys(&slot->words[word]);
        whole = whole && high(raw) == sequence;
        into[word] = low(raw);
    }
    return warp_all(whole);
}

// By every lane of a warp: writes every word, after everything that the block did before.
DEVICE void write_slot(Slot *slot, u32 sequence, const u32 *from, u32 lane) {
    fence_sys();
    for (u32 word = lane; word < layout::SLOT_WORDS; word += LANES) {
        st_relaxed_sys(&slot->words[word], join(from[word], sequence));
    }
}

} // namespace orlop
