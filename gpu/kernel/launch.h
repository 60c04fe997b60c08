// Launch: the kernel on the shim, as a program of this machine holds it.
#pragma once

#include "megakernel.cuh"

#include <cstring>
#include <vector>

namespace host {

struct Kernel {
    u8 *shared;
    u8 *arena;
    orlop::State *state;
    u64 generation;
    orlop::Scratch *scratch;
};

inline Kernel kernel;

inline void kernel_body() {
    const orlop::Block block{kernel.state, kernel.shared, kernel.arena,
                             kernel.scratch + orlop::block_index(), kernel.generation};
    orlop::run_block(block);
}

// The tables of a fresh device. What is in the block's own memory at first is anything.
inline bool set_up(u8 *shared, u32 entry_slots, u32 tickets, u32 workers, const orlop::Limits &limits) {
    const u64 bytes = orlop::place_tables(nullptr, entry_slots, tickets, workers, limits);
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) {
        return false;
    }
    memset(memory, 0, bytes);
    kernel.state = static_cast<orlop::State *>(memory);
    kernel.shared = shared;
    if (!orlop::set_up(shared, kernel.state, limits)) {
        return false;
    }
    kernel.arena = shared + kernel.state->arena_at;
    kernel.scratch = static_cast<orlop::Scratch *>(malloc(sizeof(orlop::Scratch) * workers));
    memset(kernel.scratch, 0xa5, sizeof(orlop::Scratch) * workers);
    return true;
}

inline void tear_down() {
    free(kernel.state);
    free(kernel.scratch);
}

// Whether the launch has ended; then what it left is visible.
UNSEEN inline bool is_over() {
    if (shim::machine.kernel_live != 0) {
        return false;
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&shim::machine.launch_tag);
#endif
    return true;
}

// Fibers from 1 on are the kernel's, fiber 0 is whoever launches it.
UNSEEN inline void launch(u32 blocks, u64 generation) {
    kernel.generation = generation;
    shim::machine.blocks = blocks;
    shim::machine.kernel_live = blocks * orlop::THREADS;
    for (u32 at = 0; at < shim::FIBERS_MAX; ++at) {
        shim::machine.blocks_at[at] = shim::Barrier{0, 0, {true, true}, {0, 0}};
        shim::machine.warps_at[at] = shim::Barrier{0, 0, {true, true}, {0, 0}};
    }
    for (u32 at = 0; at < blocks * orlop::THREADS; ++at) {
        shim::make_fiber(1 + at, kernel_body, at / orlop::THREADS, at % orlop::THREADS);
    }
}

// Makes the calling thread fiber 0.
UNSEEN inline void become_host(u64 seed, u32 chance) {
    shim::machine.random = seed * 0x9e3779b97f4a7c15ULL + 0x1234567;
    shim::machine.chance = chance;
    shim::Fiber *fiber = shim::machine.fibers;
#if defined(__SANITIZE_THREAD__)
    fiber->sanitizer = __tsan_get_current_fiber();
#endif
    fiber->block = ~0U;
    fiber->is_live = true;
    fiber->recent_at = 0;
    fiber->has_fenced = false;
    shim::machine.current = 0;
    shim::machine.fiber_count = 1;
}

} // namespace host
