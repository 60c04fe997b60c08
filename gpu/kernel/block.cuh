// Block: what the threads of one block share, and how it tells the host something.
#pragma once

#include "schedule.cuh"

namespace orlop {

// What the whole block does next; decided by its leader.
enum Job : u32 { JOB_NONE, JOB_RUN, JOB_EXIT };

struct Scratch {
    u32 entry[layout::ENTRY_WORDS_MAX];
    u32 order[layout::SLOT_WORDS];
    // A slot that the first warp writes out.
    u32 slot[layout::SLOT_WORDS];
    u32 job;
    u32 task;
    u32 tile;
    u32 flag;
    u32 code;
    u32 last;
    // The result of a reduction: up to 32 bytes here, more in the permit's area.
    u64 length;
    u32 result[layout::INLINE_BYTES / 4];
    u64 position;
    // For operations.
    u32 words[2048];
};

// What every thread of a block has at hand.
struct Block {
    State *state;
    u8 *shared;
    u8 *arena;
    Scratch *scratch;
    u64 generation;
};

DEVICE bool is_leader() { return thread_index() == 0; }
DEVICE bool is_first_warp() { return thread_index() < LANES; }

DEVICE Ring ring_at(const Block &b, u64 at, u32 shift) {
    return Ring{reinterpret_cast<Slot *>(b.shared + at), shift};
}

DEVICE u8 *result_area(const Block &b, u64 ticket) {
    const u64 permit = ticket & (b.state->tickets - 1);
    return b.shared + b.state->results_at + permit * b.state->result_bytes;
}

// By the first warp: says what this block runs, or with a ticket of zero that it runs nothing.
DEVICE void beat(const Block &b, u64 ticket, u64 since, u32 tile) {
    const u32 lane = thread_index();
    Scratch *scratch = b.scratch;
    u64 *beats = b.state->beats + block_index();
    const u64 count = *beats;
    sync_warp();
    if (lane == 0) {
        *beats = count + 1;
        UNROLL
        for (u32 word = 0; word < layout::SLOT_WORDS; ++word) {
            scratch->slot[word] = 0;
        }
        scratch->slot[0] = low(ticket);
        scratch->slot[1] = high(ticket);
        scratch->slot[2] = low(since);
        scratch->slot[3] = high(since);
        scratch->slot[4] = tile;
    }
    sync_warp();
    const u64 line = (u64)block_index() * layout::WORKER_SLOTS + layout::WORKER_HEARTBEAT;
    Slot *slot = reinterpret_cast<Slot *>(b.shared + b.state->workers_at) + line;
    write_slot(slot, sequence_of(count, 0), scratch->slot, lane);
    sync_warp();
}

// By the leader: a completion without result, in `scratch->slot`.
DEVICE void write_completion(const Block &b, u64 ticket, u32 attempt, u32 kind, u32 code, u64 cost) {
    u32 *slot = b.scratch->slot;
    UNROLL
    for (u32 word = 0; word < layout::SLOT_WORDS; ++word) {
        slot[word] = 0;
    }
    slot[layout::COMPLETION_TICKET_LOW] = low(ticket);
    slot[layout::COMPLETION_TICKET_HIGH] = high(ticket);
    slot[layout::COMPLETION_STATUS] = kind;
    slot[layout::COMPLETION_ATTEMPT] = attempt;
    slot[layout::COMPLETION_COST_LOW] = low(cost);
    slot[layout::COMPLETION_COST_HIGH] = high(cost);
    slot[layout::COMPLETION_INLINE] = code;
}

// By the first warp: posts the completion in `scratch->slot`. The one place where an entry ends.
DEVICE void post_completion(const Block &b) {
    const u32 lane = thread_index();
    State *s = b.state;
    if (lane == 0) {
        b.scratch->position = atom_add_gpu(&s->posted, 1ULL);
    }
    sync_warp();
    const Ring ring = ring_at(b, s->completions_at, s->entry_shift);
    const u64 position = b.scratch->position;
    write_slot(slot_at(ring, position), sequence_of(position, ring.shift), b.scratch->slot, lane);
    sync_warp();
    if (lane == 0) {
        // After the completion, so that nothing is active means that everything was told.
        fence_sys();
        atom_add_gpu(&s->active, ~0ULL);
    }
    sync_warp();
}

// By the first warp: answers an order.
DEVICE void post_reply(const Block &b, u64 number, u32 reply) {
    const u32 lane = thread_index();
    State *s = b.state;
    u32 *slot = b.scratch->slot;
    const u64 position = s->replied;
    sync_warp();
    if (lane == 0) {
        UNROLL
        for (u32 word = 0; word < layout::SLOT_WORDS; ++word) {
            slot[word] = 0;
        }
        slot[layout::CONTROL_COMMAND] = reply;
        slot[layout::CONTROL_ORDER_LOW] = low(number);
        slot[layout::CONTROL_ORDER_HIGH] = high(number);
        s->replied = position + 1;
    }
    sync_warp();
    const Ring ring = ring_at(b, s->control_done_at, s->control_shift);
    write_slot(slot_at(ring, position), sequence_of(position, ring.shift), slot, lane);
    sync_warp();
}

// Bytes of windows that are not aligned are put together here.
DEVICE u32 word_at(const u8 *bytes, u64 length, bool is_aligned) {
    if (is_aligned && length >= 4) {
        return *reinterpret_cast<const u32 *>(bytes);
    }
    u32 word = 0;
    UNROLL
    for (u32 at = 0; at < 4; ++at) {
        if (at < length) {
            word |= (u32)bytes[at] << (8 * at);
        }
    }
    return word;
}

} // namespace orlop
