// Shim: the kernel's port for a machine without a GPU.
//
// A thread of a block is a fiber, and which one runs next is drawn from a seed at every load, store,
// fence and barrier: so an interleaving can be run again. The sanitizers are told of fibers, of
// barriers, and of what fences order, and of nothing else: what the kernel leaves unordered is a race
// to them as it would be one on a device.
//
// It cannot show what a real bus and real caches do; that is for a real device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <ucontext.h>
#include <unistd.h>

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

#define DEVICE static inline
#define UNROLL
#define UNROLL_BY(times)

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
}
#define UNSEEN __attribute__((no_sanitize_thread, noinline))
#elif defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define UNSEEN __attribute__((noinline))
#else
#define UNSEEN __attribute__((noinline))
#endif

namespace shim {

constexpr u32 FIBERS_MAX = 40;
constexpr u32 RECENT = 128;
constexpr size_t STACK_BYTES = 128 * 1024;

struct Fiber {
    ucontext_t context;
    void (*body)(void);
    char *stack;
    void *sanitizer;
    // Addresses loaded since: what a fence is to order.
    const void *recent[RECENT];
    u32 recent_at;
    // A fence came last: what is stored from here on tells of what was before it.
    bool has_fenced;
    bool is_live;
    u32 block;
    u32 thread;
};

struct Barrier {
    u32 arrived;
    u32 phase;
    bool all[2];
    char tags[2];
};

struct Machine {
    Fiber fibers[FIBERS_MAX];
    u32 fiber_count;
    u32 current;
    u32 blocks;
    u32 kernel_live;
    u64 random;
    // Of 256: how often a point of the kernel is one where another fiber goes on.
    u32 chance;
    u64 points;
    u64 switches;
    u64 idle;
    // In a process of its own the kernel must leave the processor to its peer.
    bool sleeps;
    Barrier blocks_at[FIBERS_MAX];
    Barrier warps_at[FIBERS_MAX];
    // What lanes of a warp show each other.
    u32 shown[FIBERS_MAX];
    char launch_tag;
};

inline Machine machine;

UNSEEN inline u64 draw(u64 below) {
    u64 x = machine.random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    machine.random = x;
    return (x >> 11) % below;
}

UNSEEN inline void switch_to(u32 next) {
    Fiber *from = machine.fibers + machine.current;
    Fiber *to = machine.fibers + next;
    if (from == to) {
        return;
    }
    machine.switches += 1;
    machine.current = next;
#if defined(__SANITIZE_THREAD__)
    // One: no order between the two follows from the switch.
    __tsan_switch_to_fiber(to->sanitizer, 1);
#elif defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from->sanitizer, to->stack, STACK_BYTES);
#endif
    swapcontext(&from->context, &to->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->sanitizer, nullptr, nullptr);
#endif
}

UNSEEN inline void go_on() {
    u32 next = (u32)draw(machine.fiber_count);
    while (!machine.fibers[next].is_live) {
        next = (next + 1) % machine.fiber_count;
    }
    switch_to(next);
}

UNSEEN inline void point() {
    machine.points += 1;
    if (draw(256) < machine.chance) {
        go_on();
    }
}

UNSEEN inline void saw(const void *address) {
    Fiber *fiber = machine.fibers + machine.current;
    fiber->recent[fiber->recent_at++ % RECENT] = address;
}

UNSEEN inline void tells(void *address) {
#if defined(__SANITIZE_THREAD__)
    if (machine.fibers[machine.current].has_fenced) {
        __tsan_release(address);
    }
#else
    (void)address;
#endif
}

UNSEEN inline void fence() {
    point();
    Fiber *fiber = machine.fibers + machine.current;
#if defined(__SANITIZE_THREAD__)
    for (u32 at = 0; at < RECENT && at < fiber->recent_at; ++at) {
        __tsan_acquire(const_cast<void *>(fiber->recent[at]));
    }
#endif
    fiber->recent_at = 0;
    fiber->has_fenced = true;
}

UNSEEN inline bool meet(Barrier *barrier, u32 members, bool holds) {
    machine.fibers[machine.current].has_fenced = false;
    const u32 phase = barrier->phase & 1;
    barrier->all[phase] = barrier->all[phase] && holds;
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&barrier->tags[phase]);
#endif
    barrier->arrived += 1;
    if (barrier->arrived == members) {
        barrier->arrived = 0;
        barrier->all[1 - phase] = true;
        barrier->phase += 1;
    } else {
        while ((barrier->phase & 1) == phase) {
            go_on();
        }
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&barrier->tags[phase]);
#endif
    return barrier->all[phase];
}

UNSEEN inline Fiber *self() { return machine.fibers + machine.current; }

UNSEEN inline void end_fiber() {
    Fiber *fiber = self();
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&machine.launch_tag);
#endif
    fiber->is_live = false;
    if (fiber->block != ~0U) {
        machine.kernel_live -= 1;
    }
    for (;;) {
        go_on();
    }
}

UNSEEN inline void begin_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&machine.launch_tag);
#endif
    self()->body();
    end_fiber();
}

// Makes fiber `index` ready to run `body`; what the caller did so far is visible to it.
UNSEEN inline void make_fiber(u32 index, void (*body)(void), u32 block, u32 thread) {
    Fiber *fiber = machine.fibers + index;
    if (fiber->stack == nullptr) {
        fiber->stack = static_cast<char *>(malloc(STACK_BYTES));
    }
#if defined(__SANITIZE_THREAD__)
    if (fiber->sanitizer != nullptr) {
        __tsan_destroy_fiber(fiber->sanitizer);
    }
    fiber->sanitizer = __tsan_create_fiber(0);
    __tsan_release(&machine.launch_tag);
#endif
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, begin_fiber, 0);
    fiber->body = body;
    fiber->block = block;
    fiber->thread = thread;
    fiber->recent_at = 0;
    fiber->has_fenced = false;
    fiber->is_live = true;
    if (index >= machine.fiber_count) {
        machine.fiber_count = index + 1;
    }
}

inline bool virtual_time = false;

UNSEEN inline u64 nanos() {
    if (virtual_time) {
        return machine.points * 20;
    }
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000ULL + (u64)now.tv_nsec;
}

UNSEEN inline void rest() {
    machine.idle += 1;
    if (machine.sleeps && machine.idle % 256 == 0) {
        usleep(20);
    }
    machine.points += 1;
    go_on();
}

} // namespace shim

namespace orlop {

constexpr u32 LANES = 2;
constexpr u32 THREADS = 4;

DEVICE u64 ld_relaxed_sys(const u64 *p) {
    shim::point();
    const u64 value = __atomic_load_n(p, __ATOMIC_RELAXED);
    shim::saw(p);
    return value;
}
DEVICE void st_relaxed_sys(u64 *p, u64 value) {
    shim::point();
    shim::tells(p);
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
}
DEVICE u64 ld_relaxed_gpu(const u64 *p) { return ld_relaxed_sys(p); }
DEVICE u32 ld_relaxed_gpu(const u32 *p) {
    shim::point();
    const u32 value = __atomic_load_n(p, __ATOMIC_RELAXED);
    shim::saw(p);
    return value;
}
DEVICE void st_relaxed_gpu(u64 *p, u64 value) { st_relaxed_sys(p, value); }
DEVICE void st_relaxed_gpu(u32 *p, u32 value) {
    shim::point();
    shim::tells(p);
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
}
template <typename T> T modified(T *p, T was) {
    shim::saw(p);
    return was;
}
DEVICE u32 atom_add_gpu(u32 *p, u32 by) {
    shim::point();
    shim::tells(p);
    return modified(p, __atomic_fetch_add(p, by, __ATOMIC_RELAXED));
}
DEVICE u64 atom_add_gpu(u64 *p, u64 by) {
    shim::point();
    shim::tells(p);
    return modified(p, __atomic_fetch_add(p, by, __ATOMIC_RELAXED));
}
DEVICE u64 atom_or_gpu(u64 *p, u64 bits) {
    shim::point();
    shim::tells(p);
    return modified(p, __atomic_fetch_or(p, bits, __ATOMIC_RELAXED));
}
DEVICE u64 atom_and_gpu(u64 *p, u64 bits) {
    shim::point();
    shim::tells(p);
    return modified(p, __atomic_fetch_and(p, bits, __ATOMIC_RELAXED));
}
DEVICE u64 atom_cas_gpu(u64 *p, u64 expected, u64 value) {
    shim::point();
    const bool will = __atomic_load_n(p, __ATOMIC_RELAXED) == expected;
    if (will) {
        shim::tells(p);
    }
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return modified(p, expected);
}
DEVICE void fence_gpu() { shim::fence(); }
DEVICE void fence_sys() { shim::fence(); }
DEVICE void nanosleep(u32) { shim::rest(); }
DEVICE u64 now_nanos() { return shim::nanos(); }
DEVICE u32 thread_index() { return shim::self()->thread; }
DEVICE u32 block_index() { return shim::self()->block; }
DEVICE u32 block_count() { return shim::machine.blocks; }
DEVICE void sync_block() {
    shim::point();
    shim::meet(shim::machine.blocks_at + block_index(), THREADS, true);
}
DEVICE bool warp_all(bool holds) {
    shim::point();
    const u32 warp = block_index() * (THREADS / LANES) + thread_index() / LANES;
    return shim::meet(shim::machine.warps_at + warp, LANES, holds);
}
DEVICE void sync_warp() { warp_all(true); }
DEVICE u32 first_bit(u64 bits) { return (u32)__builtin_ctzll(bits); }
DEVICE u32 bit_count(u32 bits) { return (u32)__builtin_popcount(bits); }
DEVICE u32 shuffle_xor(u32 value, u32 bits) {
    const u32 own = block_index() * THREADS + thread_index();
    shim::machine.shown[own] = value;
    sync_warp();
    const u32 found = shim::machine.shown[own ^ bits];
    sync_warp();
    return found;
}
DEVICE u32 atom_add_block(u32 *p, u32 by) { return atom_add_gpu(p, by); }
DEVICE void st_relaxed_block(u32 *p, u32 value) { st_relaxed_gpu(p, value); }

struct alignas(16) Quad {
    u32 words[4];
};
DEVICE Quad load_16(const void *p) { return *reinterpret_cast<const Quad *>(p); }

template <typename To, typename From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit for bit");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
DEVICE float float_of(u32 bits) { return same_bits<float>(bits); }
DEVICE u32 bits_of(float value) { return same_bits<u32>(value); }
DEVICE double double_of(u64 bits) { return same_bits<double>(bits); }
DEVICE u64 bits_of(double value) { return same_bits<u64>(value); }
DEVICE float add(float one, float other) { return one + other; }
DEVICE float subtract(float one, float other) { return one - other; }
DEVICE float multiply(float one, float other) { return one * other; }
DEVICE double add(double one, double other) { return one + other; }
DEVICE double multiply(double one, double other) { return one * other; }
DEVICE double fused(double one, double other, double more) { return __builtin_fma(one, other, more); }
DEVICE float narrow(double value) { return (float)value; }
// As little as a device gives.
DEVICE double to_20_bits(double value) { return double_of(bits_of(value) & ~0xffffffffULL); }
DEVICE double reciprocal_about(double value) { return to_20_bits(1.0 / value); }
DEVICE double reciprocal_root_about(double value) { return to_20_bits(1.0 / __builtin_sqrt(value)); }
DEVICE float half_to_float(u32 half) {
    const u32 sign = (half & 0x8000U) << 16;
    const u32 exponent = half >> 10 & 31;
    const u32 fraction = half & 0x3ffU;
    if (exponent == 0) {
        // A multiple of two to the power of -24.
        const float magnitude = (float)fraction * 5.9604644775390625e-8F;
        return float_of(bits_of(magnitude) | sign);
    }
    const u32 wide = exponent == 31 ? 255 : exponent + 112;
    return float_of(sign | wide << 23 | fraction << 13);
}
DEVICE i64 multiply_high(i64 one, i64 other) { return (i64)(((__int128)one * other) >> 64); }

} // namespace orlop
