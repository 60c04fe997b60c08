// Execute: one tile of one task by one block, and the end of the task if it was the last.
#pragma once

#include "ops.cuh"

namespace orlop {

// By the leader: everything that the task held, but for its place in the table.
DEVICE void let_go(State *s, Task *task) {
    for (u32 at = 0; at < task->windows; ++at) {
        atom_add_gpu(&s->windows[task->window[at].slot].pins, ~0U);
    }
    give_pages(s, task->first_page, task->pages);
    atom_add_gpu(&s->lanes[task->lane].live, ~0U);
}

// By the first warp: the task's completion; its result, if it is done, stands in the scratch.
DEVICE void conclude(const Block &b, u32 index, u32 kind, u32 code) {
    State *s = b.state;
    Task *task = s->tasks + index;
    Scratch *scratch = b.scratch;
    if (is_leader()) {
        write_completion(b, task->ticket, task->attempt, kind, code, ld_relaxed_gpu(&task->cost));
        if (kind == DONE) {
            scratch->slot[layout::COMPLETION_LENGTH_LOW] = low(scratch->length);
            scratch->slot[layout::COMPLETION_LENGTH_HIGH] = high(scratch->length);
            UNROLL
            for (u32 word = 0; word < layout::INLINE_BYTES / 4; ++word) {
                scratch->slot[layout::COMPLETION_INLINE + word] = scratch->result[word];
            }
        }
        // Before the completion, so that whoever sees it can free what it used.
        fence_gpu();
        let_go(s, task);
    }
    sync_warp();
    post_completion(b);
    if (is_leader()) {
        give_task(s, index);
    }
    sync_warp();
}

// By the whole block: the last tile is over.
DEVICE void finish(const Block &b, u32 index) {
    State *s = b.state;
    Task *task = s->tasks + index;
    Scratch *scratch = b.scratch;
    if (is_leader()) {
        const u64 verdict = ld_relaxed_gpu(&task->verdict);
        scratch->flag = low(verdict);
        scratch->code = high(verdict);
        scratch->length = 0;
        UNROLL
        for (u32 word = 0; word < layout::INLINE_BYTES / 4; ++word) {
            scratch->result[word] = 0;
        }
        scratch->started = now_nanos();
    }
    sync_block();
    if (scratch->flag == 0) {
        reduce_op_of<ANY_KIND>(b, task, memory_of(s, task));
        sync_block();
        if (is_leader()) {
            atom_add_gpu(&task->cost, now_nanos() - scratch->started);
            scratch->flag = scratch->code == 0 ? DONE : FAILED;
        }
        sync_block();
    }
    if (is_first_warp()) {
        conclude(b, index, scratch->flag, scratch->code);
    }
}

// By the whole block: runs a tile that was claimed for it.
DEVICE void execute(const Block &b, u32 index, u32 tile) {
    State *s = b.state;
    Task *task = s->tasks + index;
    Scratch *scratch = b.scratch;
    if (is_leader()) {
        scratch->started = now_nanos();
        if (task->deadline != 0 && scratch->started >= task->deadline) {
            withdraw_rest(task, EXPIRED, 0);
        }
        scratch->flag = ld_relaxed_gpu(&task->verdict) == 0;
        scratch->code = 0;
    }
    sync_block();
    const bool runs = scratch->flag != 0;
    if (runs) {
        if (is_first_warp()) {
            beat(b, task->ticket, now_nanos() - s->origin, tile);
        }
        // A task of no tile is its reduction alone.
        if (tile < task->tiles) {
            run_op_tile_of<ANY_KIND>(b, task, tile, memory_of(s, task));
        }
    }
    sync_block();
    if (is_leader()) {
        if (runs) {
            if (scratch->code != 0) {
                withdraw_rest(task, FAILED, scratch->code);
            }
            atom_add_gpu(&task->cost, now_nanos() - scratch->started);
        }
        scratch->last = finish_tiles(task, 1);
    }
    sync_block();
    if (scratch->last != 0) {
        finish(b, index);
    }
    if (runs && is_first_warp()) {
        beat(b, 0, 0, 0);
    }
    sync_block();
}

} // namespace orlop
