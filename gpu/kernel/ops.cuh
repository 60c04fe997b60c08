// Operations: what the kernel can do. Every function of an operation is called by a whole block,
// but for its plan.
//
// Invariants
// - A plan reads the task alone, and of its windows at most a program.
// - A tile writes its own part of the task's memory, or what it holds the lock of; a reduction the
//   result and nothing else.
#pragma once

#include "op_aggregate.cuh"
#include "op_blake3_many.cuh"
#include "op_crc32c_pages.cuh"
#include "op_topk.cuh"
#ifdef ORLOP_TEST_OPS
#include "op_test.cuh"
#endif

namespace orlop {

enum Kind : u32 {
    KIND_NONE,
    KIND_NOOP,
    KIND_BLAKE3,
    KIND_CRC32C,
    KIND_BLAKE3_MANY,
    KIND_CRC32C_PAGES,
    KIND_AGGREGATE,
    KIND_TOPK,
    KIND_TEST,
};

DEVICE u32 built_in(u32 opcode) {
    switch (opcode) {
    case layout::OPCODE_NOOP:
        return KIND_NOOP;
    case layout::OPCODE_BLAKE3:
        return KIND_BLAKE3;
    case layout::OPCODE_CRC32C:
        return KIND_CRC32C;
    case layout::OPCODE_BLAKE3_MANY:
        return KIND_BLAKE3_MANY;
    case layout::OPCODE_CRC32C_PAGES:
        return KIND_CRC32C_PAGES;
    case layout::OPCODE_AGGREGATE:
        return KIND_AGGREGATE;
    case layout::OPCODE_TOPK:
        return KIND_TOPK;
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

// The kind of a task; or one that is known when this is compiled.
constexpr u32 ANY_KIND = ~0U;
template <u32 KIND> DEVICE u32 kind_of(const Task *task) { return KIND == ANY_KIND ? task->kind : KIND; }

template <u32 KIND> DEVICE Plan plan_op_of(const Block &b, Task *task) {
    switch (kind_of<KIND>(task)) {
    case KIND_NOOP:
        return Plan{1, 0, 0, 0};
    case KIND_BLAKE3:
        return task->windows == 0 ? refused_plan(layout::ERROR_MISSING_WINDOW)
                                  : plan_of_partials(blake3::tiles(task), task->window[0].length);
    case KIND_CRC32C:
        return task->windows == 0 ? refused_plan(layout::ERROR_MISSING_WINDOW)
                                  : plan_of_partials(crc32c::tiles(task), task->window[0].length);
    case KIND_BLAKE3_MANY:
        return blake3_many::plan(b, task);
    case KIND_CRC32C_PAGES:
        return crc32c_pages::plan(task);
    case KIND_AGGREGATE:
        return aggregate::plan(b, task);
    case KIND_TOPK:
        return topk::plan(b, task);
#ifdef ORLOP_TEST_OPS
    case KIND_TEST:
        return plan_of_partials(test_op::tiles(task), 0);
#endif
    default:
        return refused_plan(layout::ERROR_BAD_PARTIAL);
    }
}

template <u32 KIND> DEVICE void run_op_tile_of(const Block &b, Task *task, u32 tile, u8 *memory) {
    u8 *partial = memory + (u64)tile * PARTIAL_BYTES;
    switch (kind_of<KIND>(task)) {
    case KIND_BLAKE3:
        blake3::run_tile(b, task, tile, partial);
        break;
    case KIND_CRC32C:
        crc32c::run_tile(b, task, tile, partial);
        break;
    case KIND_BLAKE3_MANY:
        blake3_many::run_tile(b, task, tile, memory);
        break;
    case KIND_CRC32C_PAGES:
        crc32c_pages::run_tile(b, task, tile, memory);
        break;
    case KIND_AGGREGATE:
        aggregate::run_tile(b, task, tile, memory);
        break;
    case KIND_TOPK:
        topk::run_tile(b, task, tile, memory);
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

template <u32 KIND> DEVICE void reduce_op_of(const Block &b, const Task *task, u8 *memory) {
    switch (kind_of<KIND>(task)) {
    case KIND_BLAKE3:
        // The only tile is the root already.
        if (task->tiles == 1) {
            if (is_leader()) {
                UNROLL
                for (u32 i = 0; i < 8; ++i) {
                    b.scratch->result[i] = reinterpret_cast<const u32 *>(memory)[i];
                }
                b.scratch->length = 32;
            }
        } else {
            blake3::reduce(b, task, memory);
        }
        break;
    case KIND_CRC32C:
        crc32c::reduce(b, task, memory);
        break;
    case KIND_BLAKE3_MANY:
        blake3_many::reduce(b, task, memory);
        break;
    case KIND_CRC32C_PAGES:
        crc32c_pages::reduce(b, task, memory);
        break;
    case KIND_AGGREGATE:
        aggregate::reduce(b, task, memory);
        break;
    case KIND_TOPK:
        topk::reduce(b, task, memory);
        break;
#ifdef ORLOP_TEST_OPS
    case KIND_TEST:
        test_op::reduce(b, task, memory);
        break;
#endif
    default:
        break;
    }
}

} // namespace orlop
