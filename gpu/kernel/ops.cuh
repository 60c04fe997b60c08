// Operations: what the kernel can do. Every function of an operation is called by a whole block,
// but for its plan.
//
// Invariants
// - A plan reads the task alone, never a window.
// - A tile writes its own partial and nothing else; a reduction the result and nothing else.
#pragma once

#include "op_blake3.cuh"
#include "op_crc32c.cuh"
#ifdef ORLOP_TEST_OPS
#include "op_test.cuh"
#endif

namespace orlop {

enum Kind : u32 { KIND_NONE, KIND_NOOP, KIND_BLAKE3, KIND_CRC32C, KIND_TEST };

DEVICE u32 built_in(u32 opcode) {
    switch (opcode) {
    case layout::OPCODE_NOOP:
        return KIND_NOOP;
    case layout::OPCODE_BLAKE3:
        return KIND_BLAKE3;
    case layout::OPCODE_CRC32C:
        return KIND_CRC32C;
    default:
        return KIND_NONE;
    }
}

// What the tenant may know as this opcode; another tenant's operation is simply unknown.
DEVICE u32 find_op(const State *s, u32 opcode, u32 tenant_slot, u32 tenant_generation) {
    if (opcode < layout::OPCODE_USER_FIRST) {
        return built_in(opcode);
    }
    for (u32 at = 0; at < s->user_ops_count; ++at) {
        const UserOp *op = s->user_ops + at;
        if (op->opcode != opcode) {
            continue;
        }
        const bool visible = op->is_owned == 0 || (op->owner_slot == tenant_slot &&
                                                   op->owner_generation == tenant_generation);
        return visible ? op->kind : (u32)KIND_NONE;
    }
    return KIND_NONE;
}

struct Plan {
    u64 tiles;
    u64 bytes;
    // Not zero: the task fails with it, nothing runs.
    u32 code;
};

DEVICE Plan plan_op(const Task *task) {
    switch (task->kind) {
    case KIND_NOOP:
        return Plan{1, 0, 0};
    case KIND_BLAKE3:
        if (task->windows == 0) {
            return Plan{0, 0, layout::ERROR_MISSING_WINDOW};
        }
        return Plan{blake3::tiles(task), task->window[0].length, 0};
    case KIND_CRC32C:
        if (task->windows == 0) {
            return Plan{0, 0, layout::ERROR_MISSING_WINDOW};
        }
        return Plan{crc32c::tiles(task), task->window[0].length, 0};
#ifdef ORLOP_TEST_OPS
    case KIND_TEST:
        return Plan{test_op::tiles(task), 0, 0};
#endif
    default:
        return Plan{0, 0, layout::ERROR_BAD_PARTIAL};
    }
}

DEVICE void run_op_tile(const Block &b, const Task *task, u32 tile, u8 *partial) {
    switch (task->kind) {
    case KIND_BLAKE3:
        blake3::run_tile(b, task, tile, partial);
        break;
    case KIND_CRC32C:
        crc32c::run_tile(b, task, tile, partial);
        break;
#ifdef ORLOP_TEST_OPS
    case KIND_TEST:
        test_op::run_tile(b, task, tile, partial);
        break;
#endif
    default:
        break;
    }
}

DEVICE void reduce_op(const Block &b, const Task *task, u8 *partials) {
    switch (task->kind) {
    case KIND_BLAKE3:
        // The only tile is the root already.
        if (task->tiles == 1) {
            if (is_leader()) {
                UNROLL
                for (u32 i = 0; i < 8; ++i) {
                    b.scratch->result[i] = reinterpret_cast<const u32 *>(partials)[i];
                }
                b.scratch->length = 32;
            }
        } else {
            blake3::reduce(b, task, partials);
        }
        break;
    case KIND_CRC32C:
        crc32c::reduce(b, task, partials);
        break;
#ifdef ORLOP_TEST_OPS
    case KIND_TEST:
        test_op::reduce(b, task, partials);
        break;
#endif
    default:
        break;
    }
}

} // namespace orlop
