// An operation for the proofs on the host, and no part of the device's image: as many tiles as it is
// told, a tile that fails, results of any length.
//
// Arguments: tiles, factor, bytes of result beyond 8, the tile that fails (from 1; zero is none).
#pragma once

#include "block.cuh"

namespace orlop {
namespace test_op {

DEVICE u64 tiles(const Task *task) { return task->arg[0]; }

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *partial) {
    if (is_leader()) {
        if (task->arg[3] == tile + 1) {
            b.scratch->code = 77;
        }
    }
    for (u32 at = thread_index(); at < PARTIAL_BYTES / 4; at += THREADS) {
        reinterpret_cast<u32 *>(partial)[at] = tile * task->arg[1] + at;
    }
}

DEVICE void reduce(const Block &b, const Task *task, const u8 *partials) {
    u64 sum = 0;
    for (u32 tile = 0; tile < task->tiles; ++tile) {
        const u32 *partial = reinterpret_cast<const u32 *>(partials + (u64)tile * PARTIAL_BYTES);
        for (u32 at = 0; at < PARTIAL_BYTES / 4; ++at) {
            sum += partial[at];
        }
    }
    const u64 length = 8 + (u64)task->arg[2];
    if (length <= layout::INLINE_BYTES) {
        if (is_leader()) {
            b.scratch->result[0] = low(sum);
            b.scratch->result[1] = high(sum);
            b.scratch->length = length;
        }
        return;
    }
    if (length > b.state->result_bytes) {
        if (is_leader()) {
            b.scratch->code = layout::ERROR_RESULT_TOO_LONG;
        }
        return;
    }
    u8 *area = result_area(b, task->ticket);
    for (u64 at = thread_index(); at < length; at += THREADS) {
        area[at] = at < 8 ? (u8)(sum >> (8 * at)) : (u8)(sum + at);
    }
    if (is_leader()) {
        b.scratch->length = length;
    }
}

} // namespace test_op
} // namespace orlop
