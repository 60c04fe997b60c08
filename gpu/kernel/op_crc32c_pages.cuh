// `crc32c_pages`: a checksum for every page of a window (see `gpu/ops/crc32c_pages.rs`).
//
// The checksums lie in the task's memory in order. Of long pages several threads sum a piece each.
#pragma once

#include "math.cuh"
#include "op_crc32c.cuh"

namespace orlop {
namespace crc32c_pages {

DEVICE u32 pages_of(const Task *task) { return task->derived[0]; }
// A page has at most the bytes of a tile.
DEVICE u32 pages_per_tile(const Task *task) { return layout::CRC32C_TILE_BYTES / task->arg[0]; }

DEVICE Plan plan(Task *task) {
    if (task->args == 0) {
        return refused_plan(layout::ERROR_MISSING_ARGUMENT);
    }
    if (task->windows == 0) {
        return refused_plan(layout::ERROR_MISSING_WINDOW);
    }
    const u32 page = task->arg[0];
    if (page == 0 || page > layout::CRC32C_TILE_BYTES || task->args != 1 || task->windows != 1) {
        return refused_plan(layout::ERROR_BAD_ARGUMENT);
    }
    const u64 length = task->window[0].length;
    const u64 pages = divide_up(length, page);
    if (pages > layout::CRC32C_PAGES_MAX) {
        return refused_plan(layout::ERROR_RESULT_TOO_LONG);
    }
    task->derived[0] = (u32)pages;
    const u32 of_tile = pages_per_tile(task);
    const u32 tiles = ((u32)pages + of_tile - 1) / of_tile;
    return Plan{tiles == 0 ? 1 : tiles, length, beyond_a_partial(pages * 4), 0};
}

// Threads to a page: as many as there are when each page has one, and a power of two; which one, as
// a division by what is known to be small would be a call.
DEVICE u32 threads_shift(u32 pages) {
    u32 shift = 0;
    while (2U << shift <= THREADS && (2U << shift) * pages <= THREADS) {
        shift += 1;
    }
    return shift;
}

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *memory) {
    u32 *tables = b.scratch->words;
    u32 *pieces = tables + crc32c::TABLE_WORDS;
    crc32c::fill_tables(tables);
    const u32 first = tile * pages_per_tile(task);
    const u32 left = pages_of(task) - first;
    const u32 pages = left < pages_per_tile(task) ? left : pages_per_tile(task);
    const u32 shift = threads_shift(pages);
    const u32 threads = 1U << shift;
    const u32 page_bytes = task->arg[0];
    // In whole quads, so that the pieces of a page that is aligned are.
    const u32 piece = (((page_bytes + threads - 1) >> shift) + 15) & ~15U;
    const u8 *bytes = b.arena + task->window[0].offset;
    const u32 part = thread_index() & (threads - 1);
    for (u32 base = 0; base < pages; base += THREADS >> shift) {
        const u32 page = base + (thread_index() >> shift);
        if (page < pages) {
            const u64 start = (u64)(first + page) * page_bytes;
            const u64 rest = task->window[0].length - start;
            const u32 length = rest < page_bytes ? (u32)rest : page_bytes;
            const u32 begin = piece * part < length ? piece * part : length;
            const u32 end = length - begin < piece ? length : begin + piece;
            const u32 sum = crc32c::sum_of(tables, bytes + start + begin, end - begin);
            pieces[thread_index()] = threads == 1 ? sum : crc32c::shift(sum, length - end);
        }
        sync_block();
        if (page < pages && part == 0) {
            u32 sum = 0;
            for (u32 other = 0; other < threads; ++other) {
                sum ^= pieces[thread_index() + other];
            }
            reinterpret_cast<u32 *>(memory)[first + page] = sum;
        }
        sync_block();
    }
}

DEVICE void reduce(const Block &b, const Task *task, const u8 *memory) {
    tell_words(b, task, reinterpret_cast<const u32 *>(memory), (u64)pages_of(task) * 4);
}

} // namespace crc32c_pages
} // namespace orlop
