// Scores of `vector_topk`, in the order of operations that `gpu/ops/topk/score.rs` has: element i goes
// into lane i % 32, then the lanes are folded in halves.
//
// A vector is a group's: of 8 threads on a device, each of which has 4 of the lanes, so that it loads 16
// bytes at a time and the group a line.
#pragma once

#include "math.cuh"

namespace orlop {
namespace topk {

constexpr u32 LANES_OF_SCORE = 32;
constexpr u32 QUADS = LANES_OF_SCORE / 4;
constexpr u32 GROUP = LANES < QUADS ? LANES : QUADS;
// Quads of lanes that a thread has.
constexpr u32 PER_THREAD = QUADS / GROUP;
// Vectors that a group scores at a time: as many as there are registers for.
template <u32 Q> constexpr u32 VECTORS = Q == 1 ? 2 : 1;

enum Metric : u32 { METRIC_ANY, METRIC_L2 = 1, METRIC_PRODUCT = 2, METRIC_COSINE = 3 };

struct Four {
    float values[4];
};

using Half = unsigned short;

DEVICE Four load_four(const float *at) {
    const Quad found = load_16(at);
    return Four{{float_of(found.words[0]), float_of(found.words[1]), float_of(found.words[2]),
                 float_of(found.words[3])}};
}

DEVICE Four load_four(const Half *at) {
    const u64 found = *reinterpret_cast<const u64 *>(at);
    return Four{{half_to_float((u32)found & 0xffff), half_to_float((u32)(found >> 16) & 0xffff),
                 half_to_float((u32)(found >> 32) & 0xffff), half_to_float((u32)(found >> 48))}};
}

DEVICE float widen(float value) { return value; }
DEVICE float widen(Half value) { return half_to_float(value); }

// Where the vector ends there are zeros, which change no score.
template <typename E, bool WHOLE> DEVICE Four load(const E *vector, u32 element, u32 dimensions) {
    if constexpr (WHOLE) {
        return load_four(vector + element);
    } else {
        Four four;
        UNROLL
        for (u32 at = 0; at < 4; ++at) {
            four.values[at] = element + at < dimensions ? widen(vector[element + at]) : 0.0F;
        }
        return four;
    }
}

DEVICE u32 lane_of_group() { return thread_index() % GROUP; }

// By every thread of the group: the sum of all lanes.
DEVICE float fold(float (&lanes)[PER_THREAD][4]) {
    for (u32 apart = QUADS / 2; apart >= GROUP; apart /= 2) {
        UNROLL
        for (u32 quad = 0; quad < PER_THREAD; ++quad) {
            if (quad < apart / GROUP) {
                UNROLL
                for (u32 at = 0; at < 4; ++at) {
                    lanes[quad][at] = add(lanes[quad][at], lanes[(quad + apart / GROUP) % PER_THREAD][at]);
                }
            }
        }
    }
    UNROLL
    for (u32 apart = GROUP / 2; apart > 0; apart /= 2) {
        UNROLL
        for (u32 at = 0; at < 4; ++at) {
            const float other = float_of(shuffle_xor(bits_of(lanes[0][at]), apart));
            lanes[0][at] = add(lanes[0][at], other);
        }
    }
    return add(add(lanes[0][0], lanes[0][2]), add(lanes[0][1], lanes[0][3]));
}

// Which one is known when this is compiled, or else told.
template <u32 METRIC> DEVICE float term(float one, float other, u32 metric) {
    if (METRIC == METRIC_L2 || (METRIC == METRIC_ANY && metric == METRIC_L2)) {
        const float difference = subtract(one, other);
        return multiply(difference, difference);
    }
    return multiply(one, other);
}

// By the whole warp: what vectors of the group score against Q query vectors, before lengths; and
// for the cosine the vectors' own lengths. A metric that is only told is that of vectors that are not
// aligned, or do not end with a quad.
template <u32 METRIC, typename E, u32 Q>
DEVICE void score(const E *const (&vectors)[VECTORS<Q>], const E *queries, u32 dimensions, u32 last_query,
                  u32 metric, float (&scores)[VECTORS<Q>][Q], float (&own)[VECTORS<Q>]) {
    constexpr bool WHOLE = METRIC != METRIC_ANY;
    constexpr bool LENGTHS = METRIC == METRIC_COSINE || METRIC == METRIC_ANY;
    float sums[VECTORS<Q>][Q][PER_THREAD][4] = {};
    float squares[VECTORS<Q>][PER_THREAD][4] = {};
    UNROLL
    for (u32 quad = 0; quad < PER_THREAD; ++quad) {
        // As many loads in flight as there are registers for.
        UNROLL_BY(Q == 1 && WHOLE ? 4 : 1)
        for (u32 element = 4 * (quad * GROUP + lane_of_group()); element < dimensions;
             element += LANES_OF_SCORE) {
            Four of_vector[VECTORS<Q>];
            UNROLL
            for (u32 v = 0; v < VECTORS<Q>; ++v) {
                of_vector[v] = load<E, WHOLE>(vectors[v], element, dimensions);
            }
            UNROLL
            for (u32 q = 0; q < Q; ++q) {
                const u32 query = q < last_query ? q : last_query;
                const Four other = load<E, WHOLE>(queries + (u64)query * dimensions, element, dimensions);
                UNROLL
                for (u32 v = 0; v < VECTORS<Q>; ++v) {
                    UNROLL
                    for (u32 at = 0; at < 4; ++at) {
                        float &sum = sums[v][q][quad][at];
                        sum = add(sum, term<METRIC>(of_vector[v].values[at], other.values[at], metric));
                    }
                }
            }
            if (LENGTHS) {
                UNROLL
                for (u32 v = 0; v < VECTORS<Q>; ++v) {
                    UNROLL
                    for (u32 at = 0; at < 4; ++at) {
                        const float value = of_vector[v].values[at];
                        squares[v][quad][at] = add(squares[v][quad][at], multiply(value, value));
                    }
                }
            }
        }
    }
    UNROLL
    for (u32 v = 0; v < VECTORS<Q>; ++v) {
        UNROLL
        for (u32 q = 0; q < Q; ++q) {
            scores[v][q] = fold(sums[v][q]);
        }
        own[v] = LENGTHS ? square_root(fold(squares[v])) : 0.0F;
    }
}

} // namespace topk
} // namespace orlop
