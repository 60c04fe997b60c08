// Gate: each operation as a kernel of its own, so that what it needs can be told. Never launched, and no
// part of the image.
#include "ops.cuh"

#define ORLOP_ALONE(name, kind)                                                                       \
    extern "C" __global__ void __launch_bounds__(orlop::THREADS, 4)                                   \
        name(u8 *shared, u8 *arena, orlop::State *state, orlop::Task *task, u8 *memory, u32 tile) {   \
        __shared__ orlop::Scratch scratch;                                                            \
        const orlop::Block block{state, shared, arena, &scratch, 0};                                  \
        if (orlop::is_leader()) {                                                                     \
            task->tiles = (u32)orlop::plan_op_of<kind>(block, task).tiles;                            \
        }                                                                                             \
        orlop::sync_block();                                                                          \
        orlop::run_op_tile_of<kind>(block, task, tile, memory);                                       \
        orlop::sync_block();                                                                          \
        orlop::reduce_op_of<kind>(block, task, memory);                                               \
    }

ORLOP_ALONE(orlop_op_noop, orlop::KIND_NOOP)
ORLOP_ALONE(orlop_op_blake3, orlop::KIND_BLAKE3)
ORLOP_ALONE(orlop_op_crc32c, orlop::KIND_CRC32C)
ORLOP_ALONE(orlop_op_blake3_many, orlop::KIND_BLAKE3_MANY)
ORLOP_ALONE(orlop_op_crc32c_pages, orlop::KIND_CRC32C_PAGES)
ORLOP_ALONE(orlop_op_filter_aggregate, orlop::KIND_AGGREGATE)
ORLOP_ALONE(orlop_op_vector_topk, orlop::KIND_TOPK)
