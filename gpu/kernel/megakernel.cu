// The device's image: what the host launches.
//
// `orlop_state_bytes` and `orlop_set_up` are launched once with one thread, `orlop_megakernel`
// cooperatively with one block per worker, once per generation.
#include "megakernel.cuh"

// Blocks of one multiprocessor: 4 have 128 registers a thread, which is enough where the machine code is
// gated; other architectures need a few more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define BLOCKS_MIN 4
#else
#define BLOCKS_MIN 3
#endif

extern "C" __global__ void orlop_state_bytes(u32 entry_slots, u32 tickets, u32 workers,
                                             orlop::Limits limits, u64 *bytes) {
    *bytes = orlop::place_tables(nullptr, entry_slots, tickets, workers, limits);
}

extern "C" __global__ void orlop_set_up(u8 *shared, orlop::State *state, orlop::Limits limits, u32 *done) {
    *done = orlop::set_up(shared, state, limits) ? 1 : 0;
}

extern "C" __global__ void __launch_bounds__(orlop::THREADS, BLOCKS_MIN)
    orlop_megakernel(u8 *shared, u8 *arena, orlop::State *state, u64 generation) {
    __shared__ orlop::Scratch scratch;
    const orlop::Block block{state, shared, arena, &scratch, generation};
    orlop::run_block(block);
}
