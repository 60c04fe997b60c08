// `blake3_many`: the digests of many items of one window (see `gpu/ops/blake3_many.rs`).
//
// A tile is the items that begin in the same 64 KiB, or one item where the window is longer than all of
// them can be. So the plan need not look at the bounds: the first tile does, for all.
//
// Bounds that are malformed fail the task, and until that is known no tile acts on them.
#pragma once

#include "math.cuh"
#include "op_blake3.cuh"

namespace orlop {
namespace blake3_many {

// Chunks that are hashed at a time: their values fit in the scratch.
constexpr u32 CHUNKS_MAX = 256;
constexpr u32 ITEMS_AT_A_TIME = 128;
static_assert(CHUNKS_MAX * 8 + ITEMS_AT_A_TIME + 1 <= SCRATCH_WORDS, "values, and where each item's begin");
static_assert(layout::BLAKE3_ITEM_BYTES_MAX <= CHUNKS_MAX * blake3::CHUNK_BYTES, "an item is hashed at a time");

DEVICE u32 items_of(const Task *task) { return task->derived[0]; }
DEVICE bool is_tiled_by_item(const Task *task) { return task->derived[1] != 0; }
DEVICE const u64 *bounds_of(const Block &b, const Task *task) {
    return reinterpret_cast<const u64 *>(b.arena + task->window[1].offset);
}

DEVICE Plan plan(const Block &b, Task *task) {
    if (task->windows < 2) {
        return refused_plan(layout::ERROR_MISSING_WINDOW);
    }
    const u64 length = task->window[1].length;
    if (length != 0 && !is_aligned(bounds_of(b, task), 8)) {
        return refused_plan(layout::ERROR_MISALIGNED);
    }
    if (length % 8 != 0) {
        return refused_plan(layout::ERROR_BAD_LENGTH);
    }
    if (task->args != 0 || task->windows != 2) {
        return refused_plan(layout::ERROR_BAD_ARGUMENT);
    }
    if (length == 0) {
        return refused_plan(layout::ERROR_BAD_LENGTH);
    }
    if (length / 8 > layout::BLAKE3_ITEMS_MAX + 1) {
        return refused_plan(layout::ERROR_RESULT_TOO_LONG);
    }
    const u32 items = (u32)(length / 8) - 1;
    const u64 bytes = task->window[0].length;
    const bool by_item = bytes > (u64)items * layout::BLAKE3_ITEM_BYTES_MAX;
    task->derived[0] = items;
    task->derived[1] = by_item ? 1 : 0;
    const u64 spans = (bytes + layout::BLAKE3_SPAN_BYTES - 1) / layout::BLAKE3_SPAN_BYTES;
    const u64 tiles = by_item ? items : spans;
    const u64 work = by_item ? (u64)items * layout::BLAKE3_ITEM_BYTES_MAX : bytes;
    return Plan{tiles == 0 ? 1 : tiles, work + length, beyond_a_partial((u64)items * 32), 0};
}

// By the whole block: what the first bounds that are malformed fail the task with; zero if none are.
DEVICE u32 check_bounds(const Block &b, const Task *task) {
    constexpr u32 NOWHERE = ~0U;
    const u64 *bounds = bounds_of(b, task);
    const u32 items = items_of(task);
    u32 first = NOWHERE;
    for (u32 item = thread_index(); item < items && first == NOWHERE; item += THREADS) {
        const u64 begin = bounds[item];
        const u64 end = bounds[item + 1];
        first = end < begin || end - begin > layout::BLAKE3_ITEM_BYTES_MAX ? item : first;
    }
    u32 *firsts = b.scratch->words;
    firsts[thread_index()] = first;
    sync_block();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (thread_index() < half && firsts[thread_index() + half] < firsts[thread_index()]) {
            firsts[thread_index()] = firsts[thread_index() + half];
        }
        sync_block();
    }
    first = firsts[0];
    sync_block();
    if (first != NOWHERE) {
        return bounds[first + 1] < bounds[first] ? layout::ERROR_BAD_CONTENT : layout::ERROR_INPUT_TOO_LONG;
    }
    return bounds[items] > task->window[0].length ? layout::ERROR_BAD_CONTENT : 0;
}

// How many items begin before this byte. Rises with it, whatever the bounds are.
DEVICE u32 items_before(const u64 *bounds, u32 items, u64 byte) {
    u32 first = 0;
    u32 last = items;
    while (first < last) {
        const u32 middle = (first + last) / 2;
        if (bounds[middle] < byte) {
            first = middle + 1;
        } else {
            last = middle;
        }
    }
    return first;
}

// By the whole block: whether the items can be hashed as they stand, and are no more than a tile's.
DEVICE bool are_sound(const Block &b, const Task *task, u32 first, u32 last) {
    const u64 *bounds = bounds_of(b, task);
    bool sound = bounds[last] <= task->window[0].length &&
                 (last - first == 1 || bounds[last - 1] - bounds[first] < layout::BLAKE3_SPAN_BYTES ||
                  task->tiles == 1);
    for (u32 item = first + thread_index(); item < last; item += THREADS) {
        const u64 begin = bounds[item];
        const u64 end = bounds[item + 1];
        sound = sound && begin <= end && end - begin <= layout::BLAKE3_ITEM_BYTES_MAX;
    }
    // The flag said before whether the tile runs.
    sync_block();
    if (is_leader()) {
        b.scratch->flag = 1;
    }
    sync_block();
    const bool of_warp = warp_all(sound);
    if (!of_warp && thread_index() % LANES == 0) {
        // Whoever writes, writes this.
        st_relaxed_block(&b.scratch->flag, 0);
    }
    sync_block();
    const bool all = b.scratch->flag != 0;
    sync_block();
    return all;
}

DEVICE u32 chunks_of(const u64 *bounds, u32 item) {
    const u32 length = (u32)(bounds[item + 1] - bounds[item]);
    return length == 0 ? 1 : (length + blake3::CHUNK_BYTES - 1) / blake3::CHUNK_BYTES;
}

// Which of these items the chunk is of: starts has one more than items.
DEVICE u32 item_of_chunk(const u32 *starts, u32 items, u32 chunk) {
    u32 first = 0;
    u32 last = items - 1;
    while (first < last) {
        const u32 middle = (first + last + 1) / 2;
        if (starts[middle] <= chunk) {
            first = middle;
        } else {
            last = middle - 1;
        }
    }
    return first;
}

// By the whole block: as many items from `first` on as are hashed at a time, and where the chunks of
// each begin among all of theirs.
DEVICE u32 gather_items(const u64 *bounds, u32 first, u32 last, u32 *starts) {
    const u32 most = last - first < ITEMS_AT_A_TIME ? last - first : ITEMS_AT_A_TIME;
    for (u32 at = thread_index(); at < most; at += THREADS) {
        starts[at + 1] = chunks_of(bounds, first + at);
    }
    sync_block();
    u32 taken = 0;
    u32 sum = 0;
    // Every thread counts for itself; the leader writes.
    while (taken < most && sum + starts[taken + 1] <= CHUNKS_MAX) {
        sum += starts[taken + 1];
        taken += 1;
    }
    sync_block();
    if (is_leader()) {
        starts[0] = 0;
        for (u32 at = 1; at <= taken; ++at) {
            starts[at] += starts[at - 1];
        }
    }
    sync_block();
    return taken;
}

// By the whole block: merges neighbours within each item, level by level and in place.
DEVICE void merge_items(u32 *values, const u32 *starts, u32 items) {
    u32 longest = 0;
    for (u32 at = 0; at < items; ++at) {
        const u32 chunks = starts[at + 1] - starts[at];
        longest = chunks > longest ? chunks : longest;
    }
    for (u32 stride = 1; stride < longest; stride *= 2) {
        for (u32 place = thread_index(); place < starts[items]; place += THREADS) {
            const u32 item = item_of_chunk(starts, items, place);
            const u32 at = place - starts[item];
            const u32 chunks = starts[item + 1] - starts[item];
            if (at % (2 * stride) != 0 || at + stride >= chunks) {
                continue;
            }
            u32 *left = values + place * 8;
            const blake3::Value merged = blake3::parent(left, left + stride * 8, 2 * stride >= chunks);
            UNROLL
            for (u32 i = 0; i < 8; ++i) {
                left[i] = merged.words[i];
            }
        }
        sync_block();
    }
}

DEVICE void hash_items(const Block &b, const Task *task, u32 first, u32 last, u8 *memory) {
    u32 *values = b.scratch->words;
    u32 *starts = values + CHUNKS_MAX * 8;
    const u64 *bounds = bounds_of(b, task);
    const u8 *bytes = b.arena + task->window[0].offset;
    while (first < last) {
        const u32 items = gather_items(bounds, first, last, starts);
        for (u32 place = thread_index(); place < starts[items]; place += THREADS) {
            const u32 item = item_of_chunk(starts, items, place);
            const u32 chunk = place - starts[item];
            const u64 begin = bounds[first + item] + (u64)chunk * blake3::CHUNK_BYTES;
            const u64 left = bounds[first + item + 1] - begin;
            const u64 here = left < blake3::CHUNK_BYTES ? left : blake3::CHUNK_BYTES;
            const bool alone = starts[item + 1] - starts[item] == 1;
            const blake3::Value value = blake3::chunk(bytes + begin, here, chunk, alone);
            UNROLL
            for (u32 i = 0; i < 8; ++i) {
                values[place * 8 + i] = value.words[i];
            }
        }
        sync_block();
        merge_items(values, starts, items);
        u32 *digests = reinterpret_cast<u32 *>(memory) + (u64)first * 8;
        for (u32 at = thread_index(); at < items * 8; at += THREADS) {
            digests[at] = values[starts[at / 8] * 8 + at % 8];
        }
        sync_block();
        first += items;
    }
}

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *memory) {
    if (tile == 0) {
        const u32 code = check_bounds(b, task);
        if (code != 0) {
            if (is_leader()) {
                b.scratch->code = code;
            }
            return;
        }
    }
    const u32 items = items_of(task);
    const u64 *bounds = bounds_of(b, task);
    u32 first = tile;
    u32 last = tile < items ? tile + 1 : items;
    if (!is_tiled_by_item(task)) {
        const u64 start = (u64)tile * layout::BLAKE3_SPAN_BYTES;
        first = items_before(bounds, items, start);
        // Empty items at the very end belong to the last.
        last = tile + 1 == task->tiles ? items
                                       : items_before(bounds, items, start + layout::BLAKE3_SPAN_BYTES);
    }
    if (first < last && are_sound(b, task, first, last)) {
        hash_items(b, task, first, last, memory);
    }
}

DEVICE void reduce(const Block &b, const Task *task, const u8 *memory) {
    tell_words(b, task, reinterpret_cast<const u32 *>(memory), (u64)items_of(task) * 32);
}

} // namespace blake3_many
} // namespace orlop
