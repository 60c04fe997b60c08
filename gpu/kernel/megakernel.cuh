// The megakernel: blocks that stay, one that reads the rings and others that run tiles.
//
// It ends when the host has retired its generation, or ordered it to stop; never by itself. What is
// not over then is in the tables, and the next generation goes on with it.
#pragma once

#include "dispatch.cuh"

namespace orlop {

// By the leader of a worker: waits for a tile, or for the end.
DEVICE u32 find_tile(const Block &b) {
    State *s = b.state;
    Claimed claimed;
    for (;;) {
        while (ld_relaxed_gpu(&s->runnable) == 0 && ld_relaxed_gpu(&s->halted) != b.generation) {
            nanosleep(IDLE_NANOS);
        }
        // At a tile boundary, whatever is still to be run.
        if (ld_relaxed_gpu(&s->halted) == b.generation) {
            return JOB_EXIT;
        }
        if (claim_next(s, &claimed)) {
            b.scratch->task = claimed.task;
            b.scratch->tile = claimed.tile;
            return JOB_RUN;
        }
    }
}

DEVICE void run_block(const Block &b) {
    Scratch *scratch = b.scratch;
    for (;;) {
        if (block_index() == 0) {
            if (is_first_warp()) {
                dispatch(b);
            }
        } else if (is_leader()) {
            scratch->job = find_tile(b);
        }
        sync_block();
        const u32 job = scratch->job;
        const u32 task = scratch->task;
        const u32 tile = scratch->tile;
        sync_block();
        if (job == JOB_EXIT) {
            return;
        }
        if (job == JOB_RUN) {
            execute(b, task, tile);
        }
    }
}

// By one thread, before the first launch, over zeroed memory: reads the header and makes the tables.
// Whether the header is one that this source was compiled for.
DEVICE bool set_up(u8 *shared, State *s, const Limits &limits) {
    const u64 *header = reinterpret_cast<const Slot *>(shared)->words;
    if (ld_relaxed_sys(header + layout::HEADER_MAGIC) != layout::MAGIC ||
        ld_relaxed_sys(header + layout::HEADER_VERSION) != layout::VERSION ||
        ld_relaxed_sys(header + layout::HEADER_CONTROL_SLOTS) != layout::CONTROL_SLOTS) {
        return false;
    }
    fence_sys();
    const u64 entry_slots = ld_relaxed_sys(header + layout::HEADER_ENTRY_SLOTS);
    s->limits = limits;
    s->tickets = (u32)ld_relaxed_sys(header + layout::HEADER_TICKETS);
    s->result_bytes = (u32)ld_relaxed_sys(header + layout::HEADER_RESULT_BYTES);
    s->workers = (u32)ld_relaxed_sys(header + layout::HEADER_WORKERS);
    s->arena_bytes = ld_relaxed_sys(header + layout::HEADER_ARENA_BYTES);
    s->entry_shift = log2_of(entry_slots);
    s->control_shift = log2_of(layout::CONTROL_SLOTS);
    const u64 sizes[] = {
        entry_slots * layout::SLOT_BYTES,
        entry_slots * layout::SLOT_BYTES,
        (u64)layout::CONTROL_SLOTS * layout::SLOT_BYTES,
        (u64)layout::CONTROL_SLOTS * layout::SLOT_BYTES,
        (u64)s->workers * layout::WORKER_SLOTS * layout::SLOT_BYTES,
        (u64)s->tickets * s->result_bytes,
        s->arena_bytes,
    };
    u64 at[8];
    at[0] = layout::PAGE_BYTES;
    UNROLL
    for (u32 i = 0; i < 7; ++i) {
        at[i + 1] = align_up(at[i] + sizes[i], layout::PAGE_BYTES);
    }
    s->entries_at = at[0];
    s->completions_at = at[1];
    s->control_at = at[2];
    s->control_done_at = at[3];
    s->workers_at = at[4];
    s->results_at = at[5];
    s->arena_at = at[6];
    s->total = at[7];
    s->waiting_first = NONE;
    s->waiting_last = NONE;
    s->turn = LANE_COUNT - 1;
    place_tables(s, (u32)entry_slots, s->tickets, s->workers, limits);
    for (u32 task = 0; task < s->tasks_count; ++task) {
        s->free_tasks[task] = (u64)task + 1;
    }
    s->free_tail = s->tasks_count;
    for (u32 word = 0; word < limits.pool_pages / 64; ++word) {
        s->page_bits[word] = ~0ULL;
    }
    s->origin = now_nanos();
    return true;
}

} // namespace orlop
