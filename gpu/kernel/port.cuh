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
using i32 = int;
using i64 = long long;

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(times) PRAGMA(unroll (times))

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
DEVICE u32 bit_count(u32 bits) { return (u32)__popc((int)bits); }
// What the lane has whose number differs in these bits; every lane of the warp calls.
DEVICE u32 shuffle_xor(u32 value, u32 bits) { return __shfl_xor_sync(0xffffffffU, value, (int)bits); }
// In memory of the block.
DEVICE u32 atom_add_block(u32 *p, u32 by) { return atomicAdd(p, by); }
DEVICE void st_relaxed_block(u32 *p, u32 value) { *reinterpret_cast<volatile u32 *>(p) = value; }

struct alignas(16) Quad {
    u32 words[4];
};
// Plain loads of memory that is aligned to their size.
DEVICE Quad load_16(const void *p) {
    const uint4 found = *reinterpret_cast<const uint4 *>(p);
    return Quad{{found.x, found.y, found.z, found.w}};
}

DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_of(float value) { return __float_as_uint(value); }
DEVICE double double_of(u64 bits) { return __longlong_as_double((long long)bits); }
DEVICE u64 bits_of(double value) { return (u64)__double_as_longlong(value); }
// Rounded once each: nothing is fused behind their back.
DEVICE float add(float one, float other) { return __fadd_rn(one, other); }
DEVICE float subtract(float one, float other) { return __fsub_rn(one, other); }
DEVICE float multiply(float one, float other) { return __fmul_rn(one, other); }
DEVICE double add(double one, double other) { return __dadd_rn(one, other); }
DEVICE double multiply(double one, double other) { return __dmul_rn(one, other); }
DEVICE double fused(double one, double other, double more) { return __fma_rn(one, other, more); }
DEVICE float narrow(double value) { return __double2float_rn(value); }
// To about 20 bits.
DEVICE double reciprocal_about(double value) {
    double found;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(found) : "d"(value));
    return found;
}
DEVICE double reciprocal_root_about(double value) {
    double found;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(found) : "d"(value));
    return found;
}
DEVICE float half_to_float(u32 half) {
    float wide;
    asm("{ .reg .b16 low; cvt.u16.u32 low, %1; cvt.f32.f16 %0, low; }" : "=f"(wide) : "r"(half));
    return wide;
}
DEVICE i64 multiply_high(i64 one, i64 other) { return __mul64hi(one, other); }

} // namespace orlop

#else
#include "shim.h"
#endif

namespace orlop {

DEVICE u32 low(u64 word) { return (u32)word; }
DEVICE u32 high(u64 word) { return (u32)(word >> 32); }
DEVICE u64 join(u32 low, u32 high) { return ((u64)high << 32) | low; }

} // namespace orlop
