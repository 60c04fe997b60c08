// State: what the device keeps of its own, in its own memory: tables and counters.
//
// It outlives a launch: the kernel of generation N stops at a tile boundary, and that of generation
// N + 1 goes on from here.
//
// Invariants
// - Fields said to be the dispatcher's are touched by block 0 alone.
// - A task's own fields are written before its claim word is, and read after it was.
#pragma once

#include "slot.cuh"

namespace orlop {

// Tenants that take turns; should more have tiles waiting at a time, some share a turn.
constexpr u32 LANE_COUNT = 64;
constexpr u32 PARTIAL_BYTES = layout::PARTIAL_BYTES_MAX;
// Partials of tasks of several tiles, and whatever else is longer than one partial, lie in runs of
// pages.
constexpr u32 PAGE_PARTIALS = 64;
constexpr u32 POOL_PAGE_BYTES = PAGE_PARTIALS * PARTIAL_BYTES;
// Tasks that may be given pages before one that has waited for longer.
constexpr u32 PASSED_MAX = 16;
constexpr u32 USER_OPS_MAX = 64;
constexpr u32 NONE = 0xffffffffU;
// A task's tiles are counted in 20 bits.
constexpr u32 TILES_MAX = (1U << 20) - 1;
// One tile of at most so many bytes is run by the dispatcher itself: less than a hand-over costs.
constexpr u64 OWN_BYTES_MAX = 4096;

constexpr u32 DERIVED_WORDS = 8;

enum Status : u32 {
    DONE = layout::STATUS_DONE,
    FAILED = layout::STATUS_FAILED,
    CANCELLED = layout::STATUS_CANCELLED,
    EXPIRED = layout::STATUS_EXPIRED,
    REFUSED = layout::STATUS_REFUSED,
    FAULTED = layout::STATUS_FAULTED,
};

struct Mapped {
    u64 offset;
    u64 length;
    u32 generation;
    u32 tenant_slot;
    u32 tenant_generation;
    u32 is_mapped;
    u32 is_leaving;
    // Tasks in flight that use it; the one field that others than the dispatcher touch.
    u32 pins;
};

struct Tenant {
    u32 generation;
    u32 is_known;
    u32 lane;
    u32 unused;
};

struct View {
    // From the beginning of the arena.
    u64 offset;
    u64 length;
    u32 slot;
    u32 unused;
};

struct Task {
    // Life in 24 bits, the next tile in 20, the end of the tiles in 20: one word, so that claiming
    // a tile and withdrawing the rest exclude each other.
    u64 claim;
    // Kind of status in the low half, code in the high half; zero is none. The first one stands.
    u64 verdict;
    u64 cost;
    // Tiles neither finished nor withdrawn; whoever takes it to zero finishes the task.
    u32 left;
    u32 tiles;
    u64 ticket;
    u64 deadline;
    u32 attempt;
    u32 kind;
    u32 tenant_slot;
    u32 tenant_generation;
    u32 lane;
    u32 args;
    u32 windows;
    u32 first_page;
    // Pages that it has, and that it is to have.
    u32 pages;
    u32 pages_wanted;
    u32 next_waiting;
    // Whether its memory holds what its operation begins with; see `block.cuh`.
    u64 opened;
    // What the plan makes of arguments and windows, for the tiles.
    u32 derived[DERIVED_WORDS];
    u32 arg[layout::ARGS_MAX];
    View window[layout::WINDOWS_MAX];
    // Of a task of one tile.
    alignas(16) u8 partial[PARTIAL_BYTES];
};

struct UserOp {
    u32 opcode;
    u32 kind;
    u32 is_owned;
    u32 owner_slot;
    u32 owner_generation;
};

struct Deferred {
    u64 number;
    u32 command;
    u32 slot;
};

struct Lane {
    // Positions in this lane's part of `lane_items`; the tail is the dispatcher's to raise.
    u64 head;
    u64 tail;
    // Tasks that are not over.
    u32 live;
    // Tasks that wait for pages; the dispatcher's.
    u32 waiting;
};

// What a launch is given; the same in each of them but for the generation.
struct Limits {
    u32 buffer_slots;
    u32 tenant_slots;
    u32 tiles_max;
    // A multiple of 64.
    u32 pool_pages;
};

struct State {
    Limits limits;
    u32 tasks_count;
    u32 tickets;
    u32 result_bytes;
    u32 workers;
    u64 origin;
    u64 arena_bytes;
    // Offsets in the shared memory.
    u64 entries_at;
    u64 completions_at;
    u64 control_at;
    u64 control_done_at;
    u64 workers_at;
    u64 results_at;
    u64 arena_at;
    u64 total;
    u32 entry_shift;
    u32 control_shift;
    // The dispatcher's.
    u64 fetched;
    u64 ordered;
    u64 replied;
    // One past the position up to which entries are fetched before the order in sight; zero: none.
    u64 order_after;
    u64 free_head;
    // Both kinds of queue have a power of two places, at least as many as there are tasks.
    u64 queue_mask;
    u32 waiting_first;
    u32 waiting_last;
    // How many were given pages before the first of those that wait.
    u32 passed;
    u32 deferred_count;
    u32 stopping;
    Deferred deferred[layout::CONTROL_SLOTS];
    UserOp user_ops[USER_OPS_MAX];
    u32 user_ops_count;
    // Everybody's.
    alignas(128) u64 halted;
    alignas(128) u64 runnable;
    alignas(128) u64 turn;
    alignas(128) u64 posted;
    alignas(128) u64 active;
    alignas(128) u64 free_tail;
    Lane lanes[LANE_COUNT];
    // The tables, behind this structure.
    Task *tasks;
    Mapped *windows;
    Tenant *tenants;
    u32 *task_of_permit;
    u64 *lane_items;
    u64 *free_tasks;
    u64 *page_bits;
    u64 *beats;
    u8 *pool;
};

DEVICE u64 align_up(u64 value, u64 to) { return (value + to - 1) & ~(to - 1); }

DEVICE u32 log2_of(u64 value) { return first_bit(value); }

// Places the tables behind the structure, and says where they end. With `state` of null nothing is
// written: only the size is told.
DEVICE u64 place_tables(State *state, u32 entry_slots, u32 tickets, u32 workers, const Limits &limits) {
    // A task's place is free again a moment after its completion was seen.
    const u64 tasks = (u64)entry_slots + workers + 1;
    const u64 queue = entry_slots < 512 ? 1024 : (u64)entry_slots * 2;
    const u64 sizes[] = {
        tasks * sizeof(Task),
        limits.buffer_slots * sizeof(Mapped),
        limits.tenant_slots * sizeof(Tenant),
        tickets * sizeof(u32),
        (u64)LANE_COUNT * queue * sizeof(u64),
        queue * sizeof(u64),
        limits.pool_pages / 64 * sizeof(u64),
        workers * sizeof(u64),
        (u64)limits.pool_pages * POOL_PAGE_BYTES,
    };
    u64 at[10];
    at[0] = align_up(sizeof(State), 256);
    UNROLL
    for (u32 i = 0; i < 9; ++i) {
        at[i + 1] = align_up(at[i] + sizes[i], 256);
    }
    if (state != nullptr) {
        u8 *base = reinterpret_cast<u8 *>(state);
        state->tasks_count = (u32)tasks;
        state->queue_mask = queue - 1;
        state->tasks = reinterpret_cast<Task *>(base + at[0]);
        state->windows = reinterpret_cast<Mapped *>(base + at[1]);
        state->tenants = reinterpret_cast<Tenant *>(base + at[2]);
        state->task_of_permit = reinterpret_cast<u32 *>(base + at[3]);
        state->lane_items = reinterpret_cast<u64 *>(base + at[4]);
        state->free_tasks = reinterpret_cast<u64 *>(base + at[5]);
        state->page_bits = reinterpret_cast<u64 *>(base + at[6]);
        state->beats = reinterpret_cast<u64 *>(base + at[7]);
        state->pool = base + at[8];
    }
    return at[9];
}

} // namespace orlop
