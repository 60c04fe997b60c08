// Schedule: which tile runs next, and how a task's tiles are taken back.
//
// Invariants
// - Tiles are claimed round-robin over lanes, in order within a lane. A lane is a tenant's.
// - A tile is claimed or withdrawn, never both: both change the one claim word.
// - Whoever takes `left` to zero finishes the task, and nobody else.
#pragma once

#include "state.cuh"

namespace orlop {

constexpr u32 IDLE_NANOS = 200;
constexpr u64 COUNT_MASK = (1ULL << 20) - 1;

DEVICE u64 claim_word(u64 life, u32 next, u32 end) {
    return (life << 40) | ((u64)next << 20) | end;
}
DEVICE u32 next_of(u64 claim) { return (u32)(claim >> 20 & COUNT_MASK); }
DEVICE u32 end_of(u64 claim) { return (u32)(claim & COUNT_MASK); }
DEVICE u64 life_of(u64 claim) { return claim >> 40; }

DEVICE u64 item_of(u32 task, u64 life) { return (life << 40) | task; }

DEVICE u64 *lane_item(State *s, u32 lane, u64 position) {
    return s->lane_items + (s->queue_mask + 1) * lane + (position & s->queue_mask);
}

struct Claimed {
    u32 task;
    u32 tile;
};

// The next tile of this life of the task, if there is one.
DEVICE bool claim_tile(State *s, u64 item, u32 *tile) {
    Task *task = s->tasks + (u32)(item & COUNT_MASK);
    u64 claim = ld_relaxed_gpu(&task->claim);
    while (life_of(claim) == item >> 40 && next_of(claim) < end_of(claim)) {
        const u64 was = atom_cas_gpu(&task->claim, claim, claim + (1ULL << 20));
        if (was == claim) {
            *tile = next_of(claim);
            return true;
        }
        claim = was;
    }
    return false;
}

// The next tile of the lane; drops what has none left. By any leader.
DEVICE bool claim_in_lane(State *s, u32 lane, Claimed *claimed) {
    Lane *queue = s->lanes + lane;
    for (;;) {
        const u64 head = ld_relaxed_gpu(&queue->head);
        fence_gpu();
        if (head == ld_relaxed_gpu(&queue->tail)) {
            return false;
        }
        fence_gpu();
        const u64 item = ld_relaxed_gpu(lane_item(s, lane, head));
        if (claim_tile(s, item, &claimed->tile)) {
            claimed->task = (u32)(item & COUNT_MASK);
            // What the dispatcher wrote of the task, and the windows' bytes, are visible from here.
            fence_gpu();
            return true;
        }
        atom_cas_gpu(&queue->head, head, head + 1);
    }
}

DEVICE u32 lane_after(u64 runnable, u32 turn) {
    const u64 later = turn == LANE_COUNT - 1 ? 0 : runnable & (~0ULL << (turn + 1));
    return first_bit(later != 0 ? later : runnable);
}

// The next tile of the lane whose turn it is. By any leader.
DEVICE bool claim_next(State *s, Claimed *claimed) {
    for (;;) {
        const u64 runnable = ld_relaxed_gpu(&s->runnable);
        if (runnable == 0) {
            return false;
        }
        const u64 turn = ld_relaxed_gpu(&s->turn);
        const u32 lane = lane_after(runnable, (u32)turn);
        if (atom_cas_gpu(&s->turn, turn, lane) != turn) {
            continue;
        }
        if (claim_in_lane(s, lane, claimed)) {
            return true;
        }
        // Cleared and then looked at once more: what is pushed in between sets it again, or is seen.
        atom_and_gpu(&s->runnable, ~(1ULL << lane));
        fence_gpu();
        if (ld_relaxed_gpu(&s->lanes[lane].head) != ld_relaxed_gpu(&s->lanes[lane].tail)) {
            atom_or_gpu(&s->runnable, 1ULL << lane);
        }
    }
}

// Puts a task in line. By the dispatcher, after it wrote the task.
DEVICE void push_task(State *s, u32 index) {
    Task *task = s->tasks + index;
    const u32 lane = task->lane;
    Lane *queue = s->lanes + lane;
    const u64 tail = ld_relaxed_gpu(&queue->tail);
    // There are more places than tasks, so what is in the way has no tile left.
    while (tail - ld_relaxed_gpu(&queue->head) > s->queue_mask) {
        const u64 head = ld_relaxed_gpu(&queue->head);
        atom_cas_gpu(&queue->head, head, head + 1);
    }
    const u64 life = (life_of(ld_relaxed_gpu(&task->claim)) + 1) & 0xffffffULL;
    fence_gpu();
    // A task of no tile is claimed once all the same, for its reduction.
    st_relaxed_gpu(&task->claim, claim_word(life, 0, task->tiles == 0 ? 1 : task->tiles));
    st_relaxed_gpu(lane_item(s, lane, tail), item_of(index, life));
    fence_gpu();
    st_relaxed_gpu(&queue->tail, tail + 1);
    fence_gpu();
    atom_or_gpu(&s->runnable, 1ULL << lane);
}

DEVICE void give_verdict(Task *task, u32 kind, u32 code) {
    atom_cas_gpu(&task->verdict, 0, join(kind, code));
}

// No further tile starts. Returns how many were taken back; the caller takes them off `left`.
DEVICE u32 withdraw_tiles(Task *task) {
    u64 claim = ld_relaxed_gpu(&task->claim);
    while (next_of(claim) < end_of(claim)) {
        const u32 next = next_of(claim);
        const u64 was = atom_cas_gpu(&task->claim, claim, claim_word(life_of(claim), next, next));
        if (was == claim) {
            return end_of(claim) - next;
        }
        claim = was;
    }
    return 0;
}

// Takes tiles off `left`: whether the task is over. What the others did of it is visible then.
DEVICE bool finish_tiles(Task *task, u32 tiles) {
    fence_gpu();
    const bool last = atom_add_gpu(&task->left, 0U - tiles) == tiles;
    fence_gpu();
    return last;
}

// By a block that runs one of the task's tiles: nothing can be over yet.
DEVICE void withdraw_rest(Task *task, u32 kind, u32 code) {
    const u32 tiles = withdraw_tiles(task);
    give_verdict(task, kind, code);
    if (tiles > 0) {
        finish_tiles(task, tiles);
    }
}

// Pages of partials. Only the dispatcher takes, anybody gives back.

DEVICE bool take_pages(State *s, u32 pages, u32 *first) {
    u32 run = 0;
    for (u32 page = 0; page < s->limits.pool_pages; ++page) {
        const u64 bits = ld_relaxed_gpu(&s->page_bits[page / 64]);
        if (bits == 0) {
            run = 0;
            page |= 63;
            continue;
        }
        run = (bits >> (page & 63) & 1) != 0 ? run + 1 : 0;
        if (run == pages) {
            *first = page + 1 - pages;
            for (u32 taken = *first; taken <= page; ++taken) {
                atom_and_gpu(&s->page_bits[taken / 64], ~(1ULL << (taken & 63)));
            }
            // Whoever gave them back is done with them.
            fence_gpu();
            return true;
        }
    }
    return false;
}

// The caller has fenced: it is done with them.
DEVICE void give_pages(State *s, u32 first, u32 pages) {
    for (u32 page = first; page < first + pages; ++page) {
        atom_or_gpu(&s->page_bits[page / 64], 1ULL << (page & 63));
    }
}

DEVICE u64 pages_for(u64 bytes) { return (bytes + POOL_PAGE_BYTES - 1) / POOL_PAGE_BYTES; }

// What the task has for its operation: pages, or room for one partial.
DEVICE u8 *memory_of(State *s, Task *task) {
    return task->pages == 0 ? task->partial : s->pool + (u64)task->first_page * POOL_PAGE_BYTES;
}

// Places in the task table: a queue of free ones, that only the dispatcher takes from.

DEVICE u32 take_task(State *s) {
    u64 *place = s->free_tasks + (s->free_head & s->queue_mask);
    u64 found = ld_relaxed_gpu(place);
    while (found == 0) {
        // There are more places than entries in flight: one is about to be given back.
        nanosleep(IDLE_NANOS);
        found = ld_relaxed_gpu(place);
    }
    fence_gpu();
    st_relaxed_gpu(place, 0);
    s->free_head += 1;
    return (u32)found - 1;
}

DEVICE void give_task(State *s, u32 index) {
    fence_gpu();
    const u64 position = atom_add_gpu(&s->free_tail, 1ULL);
    st_relaxed_gpu(s->free_tasks + (position & s->queue_mask), (u64)index + 1);
}

} // namespace orlop
