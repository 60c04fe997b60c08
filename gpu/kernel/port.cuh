// Port: the few words in which the kernel speaks of memory, time and its block.
//
// One source, two compilers: under nvcc and NVRTC they are inline PTX, elsewhere `shim.h` maps them
// to C++ atomics, with the threads of a block as a group.
//
// Invariants
// - Memory of the host is only loaded and stored, never modified in place: what reads and writes
//   back (`atom_*`) is for device memory.
// - Loads and stores here are relaxed; order comes from fences. So a poll costs no fence, a hit one.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

namespace orlop {

constexpr u32 LANES = 32;
constexpr u32 THREADS = 128;

DEVICE u64 global_address(const void *p) { return __cvta_generic_to_global(p); }

DEVICE u64 ld_relaxed_sys(const u64 *p) {
    u64 value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(global_address(p)) : "memory");
    return value;
}
DEVICE void st_relaxed_sys(u64 *p, u64 value) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(global_address(p)), "l"(value) : "memory");
}
DEVICE u64 ld_relaxed_gpu(const u64 *p) {
    u64 value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(global_address(p)) : "memory");
    return value;
}
DEVICE u32 ld_relaxed_gpu(const u32 *p) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global_address(p)) : "memory");
    return value;
}
DEVICE void st_relaxed_gpu(u64 *p, u64 value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(global_address(p)), "l"(value) : "memory");
}
DEVICE void st_relaxed_gpu(u32 *p, u32 value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(global_address(p)), "r"(value) : "memory");
}
DEVICE u32 atom_add_gpu(u32 *p, u32 by) {
    u32 was;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(was) : "l"(global_address(p)), "r"(by) : "memory");
    return was;
}
DEVICE u64 atom_add_gpu(u64 *p, u64 by) {
    u64 was;
    asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;"
                 : "=l"(was) : "l"(global_address(p)), "l"(by) : "memory");
    return was;
}
DEVICE u64 atom_cas_gpu(u64 *p, u64 expected, u64 value) {
    u64 was;
    asm volatile("atom.relaxed.gpu.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(was) : "l"(global_address(p)), "l"(expected), "l"(value) : "memory");
    return was;
}
DEVICE u64 atom_or_gpu(u64 *p, u64 bits) {
    u64 was;
    asm volatile("atom.relaxed.gpu.global.or.b64 %0, [%1], %2;"
                 : "=l"(was) : "l"(global_address(p)), "l"(bits) : "memory");
    return was;
}
DEVICE u64 atom_and_gpu(u64 *p, u64 bits) {
    u64 was;
    asm volatile("atom.relaxed.gpu.global.and.b64 %0, [%1], %2;"
                 : "=l"(was) : "l"(global_address(p)), "l"(bits) : "memory");
    return was;
}
DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
DEVICE void fence_sys() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
DEVICE void nanosleep(u32 nanos) { asm volatile("nanosleep.u32 %0;" ::"r"(nanos)); }
DEVICE u64 now_nanos() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE u32 block_count() { return gridDim.x; }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
// Whether it holds on every lane of the calling warp, all of which call.
DEVICE bool warp_all(bool holds) { return __all_sync(0xffffffffU, holds); }
DEVICE u32 first_bit(u64 bits) { return (u32)__ffsll((long long)bits) - 1; }

} // namespace orlop

#else
#include "shim.h"
#endif

namespace orlop {

DEVICE u32 low(u64 word) { return (u32)word; }
DEVICE u32 high(u64 word) { return (u32)(word >> 32); }
DEVICE u64 join(u32 low, u32 high) { return ((u64)high << 32) | low; }

} // namespace orlop
