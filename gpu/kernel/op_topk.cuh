// `vector_topk`: the nearest of many vectors to each of some query vectors, by comparing all (see
// `gpu/ops/topk/mod.rs`, by which scores and ties are the same to the bit).
//
// A tile is a block of vectors and up to 4 query vectors. A block keeps what is nearer than all that
// the task has enough of already; where it kept something, it merges that into the task's list.
#pragma once

#include "topk_nearest.cuh"
#include "topk_score.cuh"

namespace orlop {
namespace topk {

// Vectors between two looks at how full the scratch is.
constexpr u32 ROUND = KEPT - layout::TOPK_K_MAX;
constexpr u32 GROUPS = THREADS / GROUP;
// Lists of one query vector, while there are few of those.
constexpr u32 STRIPES = 8;

DEVICE u32 metric_of(const Task *task) { return task->arg[0] & 0xff; }
DEVICE bool is_half(const Task *task) { return task->arg[0] >> 8 == 2; }
DEVICE bool greatest_is_nearest(const Task *task) { return metric_of(task) != METRIC_L2; }
DEVICE u32 dimensions_of(const Task *task) { return task->arg[1]; }
DEVICE u32 k_of(const Task *task) { return task->arg[2]; }
DEVICE u32 vectors_of(const Task *task) { return task->derived[0]; }
DEVICE u32 queries_of(const Task *task) { return task->derived[1]; }
DEVICE u32 vectors_per_tile(const Task *task) { return task->derived[2]; }
DEVICE bool is_whole(const Task *task) { return task->derived[3] != 0; }
DEVICE u32 stripes_of(const Task *task) { return queries_of(task) <= QUERIES ? STRIPES : 1; }
DEVICE u32 query_blocks(const Task *task) { return (queries_of(task) + QUERIES - 1) / QUERIES; }

DEVICE u32 check_query(const Task *task) {
    if (task->args < 3) {
        return layout::ERROR_MISSING_ARGUMENT;
    }
    const u32 metric = task->arg[0] & 0xff;
    const u32 element = task->arg[0] >> 8;
    const bool sound = task->args == 3 && metric >= METRIC_L2 && metric <= METRIC_COSINE &&
                       (element == 1 || element == 2) && task->arg[1] >= 1 &&
                       task->arg[1] <= layout::TOPK_DIMENSIONS_MAX && task->arg[2] >= 1 &&
                       task->arg[2] <= layout::TOPK_K_MAX;
    return sound ? 0 : layout::ERROR_BAD_ARGUMENT;
}

DEVICE Plan plan(const Block &b, Task *task) {
    const u32 code = check_query(task);
    if (code != 0) {
        return refused_plan(code);
    }
    if (task->windows != 2) {
        return refused_plan(task->windows < 2 ? layout::ERROR_MISSING_WINDOW : layout::ERROR_BAD_ARGUMENT);
    }
    const u32 element_bytes = is_half(task) ? 2 : 4;
    const u32 vector_bytes = dimensions_of(task) * element_bytes;
    u32 rest[2];
    const u64 vectors = divide(task->window[0].length, vector_bytes, rest);
    const u64 queries = divide(task->window[1].length, vector_bytes, rest + 1);
    const u64 answer_bytes = 8 * ((u64)k_of(task) + 1);
    if (rest[0] != 0 || rest[1] != 0 || queries == 0) {
        return refused_plan(layout::ERROR_BAD_LENGTH);
    }
    if (queries * answer_bytes > layout::RESULT_BYTES_MAX) {
        return refused_plan(layout::ERROR_RESULT_TOO_LONG);
    }
    if (vectors > 0xffffffffULL) {
        return refused_plan(layout::ERROR_INPUT_TOO_LONG);
    }
    const u8 *first_vector = b.arena + task->window[0].offset;
    const u8 *first_query = b.arena + task->window[1].offset;
    if ((vectors != 0 && !is_aligned(first_vector, element_bytes)) ||
        !is_aligned(first_query, element_bytes)) {
        return refused_plan(layout::ERROR_MISALIGNED);
    }
    const u32 together = queries < QUERIES ? (u32)queries : QUERIES;
    const u32 lengths = metric_of(task) == METRIC_COSINE ? 1 : 0;
    const u32 work = (together + lengths) * (dimensions_of(task) + layout::TOPK_WORK_PER_SCORE);
    const u32 per_tile = layout::TOPK_WORK_PER_TILE / work;
    const u32 four = element_bytes * 4;
    const bool whole = dimensions_of(task) % 4 == 0 && is_aligned(first_vector, four) &&
                       is_aligned(first_query, four);
    task->derived[0] = (u32)vectors;
    task->derived[1] = (u32)queries;
    task->derived[2] = per_tile == 0 ? 1 : per_tile;
    task->derived[3] = whole ? 1 : 0;
    const u32 blocks = vectors == 0 ? 1 : ((u32)vectors - 1) / task->derived[2] + 1;
    const u64 tiles = (u64)blocks * query_blocks(task);
    if (tiles > 0xffffffffULL) {
        return refused_plan(layout::ERROR_INPUT_TOO_LONG);
    }
    const u64 words = queries * stripes_of(task) * list_words(k_of(task));
    const u64 bytes = task->window[0].length + task->window[1].length;
    return Plan{tiles, bytes, beyond_a_partial(words * 8), 0};
}

// What a tile compares; in the scratch, as registers are few.
struct Search {
    // The tile's first one, and what number that is of all.
    const u8 *vectors;
    const u8 *queries;
    u32 first;
    u32 count;
    u32 first_query;
    u32 queries_count;
    u32 dimensions;
    u32 metric;
};

DEVICE Search search_of(const Block &b, const Task *task, u32 tile) {
    const u32 blocks = query_blocks(task);
    const u32 element_bytes = is_half(task) ? 2 : 4;
    Search search;
    search.queries = b.arena + task->window[1].offset;
    search.dimensions = dimensions_of(task);
    search.metric = metric_of(task);
    search.first = tile / blocks * vectors_per_tile(task);
    const u32 left = vectors_of(task) - search.first;
    search.count = left < vectors_per_tile(task) ? left : vectors_per_tile(task);
    search.vectors = b.arena + task->window[0].offset +
                     (u64)search.first * search.dimensions * element_bytes;
    search.first_query = tile % blocks * QUERIES;
    const u32 queries = queries_of(task) - search.first_query;
    search.queries_count = queries < QUERIES ? queries : QUERIES;
    return search;
}

DEVICE u64 *kept_of(const Block &b, u32 query) {
    return reinterpret_cast<u64 *>(b.scratch->words) + query * KEPT;
}

DEVICE void offer(const Block &b, u32 query, float found, u32 index, bool greatest) {
    const u64 candidate = candidate_of(found, index, greatest);
    if (candidate < b.scratch->bounds[query]) {
        kept_of(b, query)[atom_add_block(&b.scratch->held[query], 1)] = candidate;
    }
}

// By the whole block: vectors `begin` to `end` of the tile against `Q` of its query vectors, from `query`
// on.
template <u32 METRIC, typename E, u32 Q>
DEVICE void run_round(const Block &b, const Search &search, u32 begin, u32 end, u32 query) {
    const E *all = reinterpret_cast<const E *>(search.vectors);
    const u32 d = search.dimensions;
    const E *queries = reinterpret_cast<const E *>(search.queries) + (u64)(search.first_query + query) * d;
    const u32 last_query = Q == 1 ? 0 : search.queries_count - 1;
    for (u32 base = begin; base < end; base += GROUPS * VECTORS<Q>) {
        const u32 first = base + thread_index() / GROUP * VECTORS<Q>;
        const E *vectors[VECTORS<Q>];
        UNROLL
        for (u32 v = 0; v < VECTORS<Q>; ++v) {
            // Beyond the end the last one is scored once more, for nobody.
            vectors[v] = all + (u64)(first + v < end ? first + v : end - 1) * d;
        }
        float scores[VECTORS<Q>][Q];
        float own[VECTORS<Q>];
        score<METRIC, E, Q>(vectors, queries, d, last_query, search.metric, scores, own);
        UNROLL
        for (u32 at = 0; at < VECTORS<Q> * Q; ++at) {
            const u32 v = at / Q;
            const u32 q = at % Q;
            if (lane_of_group() == 0 && first + v < end && q <= last_query) {
                float found = scores[v][q];
                if (search.metric == METRIC_COSINE) {
                    found = divide(found, multiply(own[v], b.scratch->lengths[query + q]));
                }
                offer(b, query + q, found, search.first + first + v, search.metric != METRIC_L2);
            }
        }
    }
}

template <u32 METRIC, typename E>
DEVICE void run_whole(const Block &b, const Search &search, u32 begin, u32 end) {
    if (search.queries_count == 1) {
        run_round<METRIC, E, 1>(b, search, begin, end, 0);
    } else {
        run_round<METRIC, E, QUERIES>(b, search, begin, end, 0);
    }
}

// By the whole block: the lengths of the tile's query vectors, for the cosine.
template <typename E> DEVICE void find_lengths(const Block &b, const Search &search) {
    const u32 d = search.dimensions;
    for (u32 base = 0; base < search.queries_count; base += GROUPS) {
        const u32 query = base + thread_index() / GROUP;
        const u32 known = query < search.queries_count ? query : search.queries_count - 1;
        const E *vector = reinterpret_cast<const E *>(search.queries) + (u64)(search.first_query + known) * d;
        const E *vectors[VECTORS<1>] = {vector, vector};
        float scores[VECTORS<1>][1];
        float own[VECTORS<1>];
        score<METRIC_ANY, E, 1>(vectors, vector, d, 0, METRIC_PRODUCT, scores, own);
        if (lane_of_group() == 0 && query < search.queries_count) {
            b.scratch->lengths[query] = square_root(scores[0][0]);
        }
    }
    sync_block();
}

template <typename E>
DEVICE void run_round_of(const Block &b, const Search &search, u32 begin, u32 end, bool whole) {
    if (!whole) {
        for (u32 query = 0; query < search.queries_count; ++query) {
            run_round<METRIC_ANY, E, 1>(b, search, begin, end, query);
        }
        return;
    }
    switch (search.metric) {
    case METRIC_L2:
        run_whole<METRIC_L2, E>(b, search, begin, end);
        break;
    case METRIC_PRODUCT:
        run_whole<METRIC_PRODUCT, E>(b, search, begin, end);
        break;
    default:
        run_whole<METRIC_COSINE, E>(b, search, begin, end);
        break;
    }
}

// By the leader: what a candidate must be less than, as far as the task knows.
DEVICE u64 known_bound(const Block &b, const Task *task, u8 *memory, u32 query) {
    u64 bound = NOBODY;
    if (b.scratch->knows_bounds == 0 && is_open(task)) {
        // The lists hold what they begin with. Once is enough: a bound that is late is still one.
        fence_gpu();
        b.scratch->knows_bounds = 1;
    }
    if (b.scratch->knows_bounds != 0) {
        for (u32 stripe = 0; stripe < stripes_of(task); ++stripe) {
            const List *list = list_at(memory, k_of(task), query * stripes_of(task) + stripe);
            const u64 other = ld_relaxed_gpu(&list->bound);
            bound = other < bound ? other : bound;
        }
    }
    return bound;
}

// By the whole block, after a round: makes room for another one, and learns what others found.
DEVICE void settle_round(const Block &b, const Task *task, u8 *memory, const Search &search) {
    sync_block();
    const u32 k = k_of(task);
    for (u32 query = 0; query < search.queries_count; ++query) {
        u32 held = b.scratch->held[query];
        u64 *kept = kept_of(b, query);
        // Every thread has read it.
        sync_block();
        if (held > KEPT - ROUND) {
            held = keep_nearest(kept, held, k);
            if (is_leader()) {
                b.scratch->held[query] = held;
                const u64 own = held == k ? kept[k - 1] : NOBODY;
                b.scratch->bounds[query] = own < b.scratch->bounds[query] ? own : b.scratch->bounds[query];
            }
        }
        if (is_leader()) {
            const u64 known = known_bound(b, task, memory, search.first_query + query);
            b.scratch->bounds[query] = known < b.scratch->bounds[query] ? known : b.scratch->bounds[query];
        }
        sync_block();
    }
}

// By the whole block: what it kept becomes the task's.
DEVICE void deposit(const Block &b, Task *task, u8 *memory, const Search &search) {
    const u32 k = k_of(task);
    for (u32 query = 0; query < search.queries_count; ++query) {
        const u32 held = b.scratch->held[query];
        if (held == 0) {
            continue;
        }
        const u32 stripes = stripes_of(task);
        open_memory(b, task, reinterpret_cast<u64 *>(memory),
                    (u64)queries_of(task) * stripes * list_words(k), NOBODY);
        u64 *kept = kept_of(b, query);
        const u32 left = keep_nearest(kept, held, k);
        const u32 stripe = (search.first_query + query) * stripes + block_index() % stripes;
        merge(list_at(memory, k, stripe), kept, left, k);
    }
}

DEVICE void run_tile(const Block &b, Task *task, u32 tile, u8 *memory) {
    Search &search = *reinterpret_cast<Search *>(b.scratch->search);
    static_assert(sizeof(Search) <= sizeof(b.scratch->search), "the scratch holds it");
    if (is_leader()) {
        search = search_of(b, task, tile);
        b.scratch->knows_bounds = 0;
        for (u32 query = 0; query < search.queries_count; ++query) {
            b.scratch->held[query] = 0;
            b.scratch->bounds[query] = known_bound(b, task, memory, search.first_query + query);
        }
    }
    sync_block();
    if (metric_of(task) == METRIC_COSINE) {
        if (is_half(task)) {
            find_lengths<Half>(b, search);
        } else {
            find_lengths<float>(b, search);
        }
    }
    for (u32 begin = 0; begin < search.count; begin += ROUND) {
        const u32 end = search.count - begin < ROUND ? search.count : begin + ROUND;
        if (is_half(task)) {
            run_round_of<Half>(b, search, begin, end, is_whole(task));
        } else {
            run_round_of<float>(b, search, begin, end, is_whole(task));
        }
        settle_round(b, task, memory, search);
    }
    deposit(b, task, memory, search);
}

// By the whole block: the nearest of one query vector, in order, in its scratch.
DEVICE u64 *gather_stripes(const Block &b, const Task *task, u8 *memory, u32 query) {
    const u32 k = k_of(task);
    u64 *kept = kept_of(b, 0);
    u32 held = 0;
    for (u32 stripe = 0; stripe < stripes_of(task); ++stripe) {
        const List *list = list_at(memory, k, query * stripes_of(task) + stripe);
        const bool opened = is_open(task);
        for (u32 at = thread_index(); at < k; at += THREADS) {
            kept[held + at] = opened ? list->nearest[at] : NOBODY;
        }
        sync_block();
        if (stripe > 0) {
            keep_nearest(kept, held + k, k);
        }
        held = k;
    }
    return kept;
}

DEVICE void reduce(const Block &b, const Task *task, u8 *memory) {
    const u32 k = k_of(task);
    const u32 queries = queries_of(task);
    u32 *result = begin_result(b, task, (u64)queries * 8 * (k + 1));
    if (result == nullptr) {
        return;
    }
    for (u32 query = 0; query < queries; ++query) {
        const u64 *kept = gather_stripes(b, task, memory, query);
        u32 *answer = result + (u64)query * 2 * (k + 1);
        for (u32 at = thread_index(); at < k; at += THREADS) {
            const u64 candidate = kept[at];
            const bool is_some = candidate != NOBODY;
            answer[2 + 2 * at] = is_some ? low(candidate) : 0;
            answer[3 + 2 * at] = is_some ? score_bits(candidate, greatest_is_nearest(task)) : 0;
            if (is_some && (at + 1 == k || kept[at + 1] == NOBODY)) {
                answer[0] = at + 1;
            }
        }
        if (is_leader()) {
            answer[1] = k;
            if (kept[0] == NOBODY) {
                answer[0] = 0;
            }
        }
        sync_block();
    }
}

} // namespace topk
} // namespace orlop
