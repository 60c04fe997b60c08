// Block: what the threads of one block share, and how it tells the host something.
#pragma once

#include "schedule.cuh"

namespace orlop {

// What the whole block does next; decided by its leader.
enum Job : u32 { JOB_NONE, JOB_RUN, JOB_EXIT };

// Twice the most neighbours for each query vector of a tile, in 64 bits.
constexpr u32 SCRATCH_WORDS = 4 * 512 * 2;

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
    // When what the block runs began.
    u64 started;
    // For operations.
    alignas(16) u32 words[SCRATCH_WORDS];
    // Of each query vector of a tile of `vector_topk`.
    u64 bounds[4];
    u32 held[4];
    float lengths[4];
    u32 knows_bounds;
    alignas(16) u32 search[12];
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

// By the whole block: the first one of a task to come fills its memory with `word`s, and whoever comes
// meanwhile waits for that.
DEVICE void open_memory(const Block &b, Task *task, u64 *memory, u64 words, u64 word) {
    constexpr u64 NOBODY = 0, SOMEBODY = 1, EVERYBODY = 2;
    if (is_leader()) {
        u64 was = atom_cas_gpu(&task->opened, NOBODY, SOMEBODY);
        b.scratch->flag = was == NOBODY ? 1 : 0;
        while (was == SOMEBODY) {
            nanosleep(IDLE_NANOS);
            was = ld_relaxed_gpu(&task->opened);
        }
        fence_gpu();
    }
    sync_block();
    const bool fills = b.scratch->flag != 0;
    sync_block();
    if (!fills) {
        return;
    }
    for (u64 at = thread_index(); at < words; at += THREADS) {
        memory[at] = word;
    }
    sync_block();
    if (is_leader()) {
        fence_gpu();
        st_relaxed_gpu(&task->opened, EVERYBODY);
    }
}

DEVICE bool is_open(const Task *task) { return ld_relaxed_gpu(&task->opened) == 2; }

// By the whole block: where a result of so many bytes is put together, or null if it exceeds the
// permit's area. Up to 32 bytes are the scratch's.
DEVICE u32 *begin_result(const Block &b, const Task *task, u64 length) {
    if (length <= layout::INLINE_BYTES) {
        if (is_leader()) {
            b.scratch->length = length;
        }
        return b.scratch->result;
    }
    if (is_leader()) {
        if (length > b.state->result_bytes) {
            b.scratch->code = layout::ERROR_RESULT_TOO_LONG;
        } else {
            b.scratch->length = length;
        }
    }
    return length > b.state->result_bytes ? nullptr
                                          : reinterpret_cast<u32 *>(result_area(b, task->ticket));
}

// By the whole block: these words are the result.
DEVICE void tell_words(const Block &b, const Task *task, const u32 *words, u64 length) {
    u32 *to = begin_result(b, task, length);
    if (to == nullptr) {
        return;
    }
    for (u64 at = thread_index(); at < length / 4; at += THREADS) {
        to[at] = words[at];
    }
}

// What an operation makes of a task before any of it runs.
struct Plan {
    u64 tiles;
    u64 bytes;
    // Of the task's memory beyond one partial; zero is none.
    u64 memory;
    // Not zero: the task fails with it, nothing runs.
    u32 code;
};

DEVICE Plan refused_plan(u32 code) { return Plan{0, 0, 0, code}; }

// Of an operation that has nothing but a partial per tile.
DEVICE Plan plan_of_partials(u64 tiles, u64 bytes) {
    return Plan{tiles, bytes, tiles <= 1 ? 0 : tiles * PARTIAL_BYTES, 0};
}

// Of an operation whose memory is so long however many tiles there are.
DEVICE u64 beyond_a_partial(u64 bytes) { return bytes <= PARTIAL_BYTES ? 0 : bytes; }

DEVICE bool is_aligned(const void *at, u32 to) { return (reinterpret_cast<u64>(at) & (to - 1)) == 0; }

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
