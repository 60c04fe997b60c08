// Nearest: what a block and a task keep of the candidates of `vector_topk`.
//
// A candidate is one word, `{rank of its score: high 32, index: low 32}`: comparing words compares
// candidates, ties of scores included (see `gpu/ops/topk/nearest.rs`).
//
// Invariants
// - What is kept in the end does not depend on the order in which candidates came: a candidate is
//   dropped only if there are as many nearer ones as are asked for.
#pragma once

#include "block.cuh"
#include "math.cuh"

namespace orlop {
namespace topk {

constexpr u64 NOBODY = ~0ULL;
// Candidates that a block keeps of one query vector: the nearest, and those of one round.
constexpr u32 KEPT = 512;
constexpr u32 QUERIES = layout::TOPK_QUERIES_PER_TILE;
static_assert(QUERIES * KEPT * 2 <= SCRATCH_WORDS, "the scratch holds them");
static_assert(2 * layout::TOPK_K_MAX <= KEPT, "two lists are merged in it");

DEVICE u64 candidate_of(float score, u32 index, bool greatest) {
    if (is_nan(score)) {
        return NOBODY;
    }
    // Minus zero becomes zero, so that equal scores have equal bits.
    const u32 bits = bits_of(add(score, 0.0F));
    const u32 rising = bits >> 31 == 0 ? bits | 1U << 31 : ~bits;
    return join(index, greatest ? ~rising : rising);
}

DEVICE u32 score_bits(u64 candidate, bool greatest) {
    const u32 rising = greatest ? ~high(candidate) : high(candidate);
    return rising >> 31 == 0 ? ~rising : rising & ~(1U << 31);
}

// By the whole block: the least words come first. Begins and ends in step; `count` is a power of two.
DEVICE void sort_words(u64 *words, u32 count) {
    for (u32 size = 2; size <= count; size *= 2) {
        for (u32 stride = size / 2; stride > 0; stride /= 2) {
            for (u32 at = thread_index(); at < count / 2; at += THREADS) {
                const u32 one = (at & ~(stride - 1)) * 2 + (at & (stride - 1));
                const u32 other = one + stride;
                const bool rises = (one & size) == 0;
                const u64 first = words[one];
                const u64 second = words[other];
                if ((first > second) == rises) {
                    words[one] = second;
                    words[other] = first;
                }
            }
            sync_block();
        }
    }
}

// By the whole block: sorts what is held, and keeps `k` of it. How many are left.
DEVICE u32 keep_nearest(u64 *kept, u32 held, u32 k) {
    u32 room = 2;
    while (room < held) {
        room *= 2;
    }
    for (u32 at = held + thread_index(); at < room; at += THREADS) {
        kept[at] = NOBODY;
    }
    sync_block();
    sort_words(kept, room);
    return held < k ? held : k;
}

// The task's memory: for every query vector and stripe a lock, a bound, and the nearest so far in order.
// Stripes are merged at the end; of few query vectors there are several, as blocks wait for each other.
struct List {
    u64 lock;
    // What a candidate must be less than.
    u64 bound;
    u64 nearest[1];
};

DEVICE u32 list_words(u32 k) { return 2 + k; }

DEVICE List *list_at(u8 *memory, u32 k, u32 at) {
    return reinterpret_cast<List *>(reinterpret_cast<u64 *>(memory) + (u64)at * list_words(k));
}

DEVICE void lock(List *list) {
    while (atom_cas_gpu(&list->lock, NOBODY, 1) != NOBODY) {
        while (ld_relaxed_gpu(&list->lock) != NOBODY) {
            nanosleep(IDLE_NANOS);
        }
    }
    fence_gpu();
}

DEVICE void unlock(List *list) {
    fence_gpu();
    st_relaxed_gpu(&list->lock, NOBODY);
}

// By the whole block: brings what it kept, at most `k`, into the list.
DEVICE void merge(List *list, u64 *kept, u32 held, u32 k) {
    if (is_leader()) {
        lock(list);
    }
    sync_block();
    for (u32 at = thread_index(); at < k; at += THREADS) {
        kept[held + at] = list->nearest[at];
    }
    sync_block();
    keep_nearest(kept, held + k, k);
    for (u32 at = thread_index(); at < k; at += THREADS) {
        list->nearest[at] = kept[at];
    }
    sync_block();
    if (is_leader()) {
        st_relaxed_gpu(&list->bound, kept[k - 1]);
        unlock(list);
    }
    sync_block();
}

} // namespace topk
} // namespace orlop
