// Scans of `filter_aggregate`: one pass over a column by a block, over 16,384 rows.
//
// A thread has pairs of rows that follow each other: pair p is rows 256 g + 2 p and the next one, for g
// from 0 to 63; so it has the lanes 2 p and 2 p + 1 of the sums of numbers to itself. On a device each
// thread has one pair. Which rows are selected is told by bits, 16 g to a word.
#pragma once

#include "aggregate_program.cuh"

namespace orlop {
namespace aggregate {

constexpr u32 TILE_ROWS = layout::AGGREGATE_TILE_ROWS;
constexpr u32 SUM_LANES = 256;
constexpr u32 PAIRS = SUM_LANES / 2;
constexpr u32 GROUPS = TILE_ROWS / SUM_LANES;
constexpr u32 WORD_GROUPS = 16;
constexpr u32 MASKS = GROUPS / WORD_GROUPS;
static_assert(GROUPS % WORD_GROUPS == 0 && PAIRS % THREADS == 0, "words are whole");

struct Column {
    // Of the task's first row.
    const u8 *values;
    const u8 *bitmap;
    u64 least;
    u64 greatest;
    u32 type;
    u32 is_ranged;
};

// Rows of one tile of the definition.
struct Rows {
    u64 first;
    // At most 16,384.
    u32 count;
};

// A value as 64 bits: integers widened, numbers as those of 64 bits.
DEVICE u64 widened(i32 value) { return (u64)(i64)value; }
DEVICE u64 widened(i64 value) { return (u64)value; }
DEVICE u64 widened(float value) { return bits_of((double)value); }
DEVICE u64 widened(double value) { return bits_of(value); }

template <typename T> struct alignas(2 * sizeof(T)) Two {
    T values[2];
};

// The pairs of N groups from `group` on, where all rows exist and pairs are aligned.
template <typename T, u32 N> DEVICE void load_whole(const T *values, u32 pair, u32 group, u64 (&into)[2 * N]) {
    Two<T> found[N];
    UNROLL
    for (u32 at = 0; at < N; ++at) {
        found[at] = *reinterpret_cast<const Two<T> *>(values + (u64)(group + at) * SUM_LANES + 2 * pair);
    }
    UNROLL
    for (u32 at = 0; at < N; ++at) {
        into[2 * at] = widened(found[at].values[0]);
        into[2 * at + 1] = widened(found[at].values[1]);
    }
}

template <typename T, u32 N>
DEVICE void load_some(const T *values, u32 rows, u32 pair, u32 group, u64 (&into)[2 * N]) {
    UNROLL
    for (u32 at = 0; at < 2 * N; ++at) {
        const u32 row = (group + at / 2) * SUM_LANES + 2 * pair + at % 2;
        into[at] = row < rows ? widened(values[row]) : 0;
    }
}

template <typename T, u32 N>
DEVICE void load_as(const Column &column, const Rows &rows, u32 pair, u32 group, u64 (&into)[2 * N]) {
    const T *values = reinterpret_cast<const T *>(column.values) + rows.first;
    if (rows.count == TILE_ROWS && is_aligned(values, 2 * sizeof(T))) {
        load_whole<T, N>(values, pair, group, into);
    } else {
        load_some<T, N>(values, rows.count, pair, group, into);
    }
}

template <u32 N>
DEVICE void load_pairs(const Column &column, const Rows &rows, u32 pair, u32 group, u64 (&into)[2 * N]) {
    switch (column.type) {
    case TYPE_I32:
        load_as<i32, N>(column, rows, pair, group, into);
        break;
    case TYPE_I64:
        load_as<i64, N>(column, rows, pair, group, into);
        break;
    case TYPE_F32:
        load_as<float, N>(column, rows, pair, group, into);
        break;
    default:
        load_as<double, N>(column, rows, pair, group, into);
        break;
    }
}

// Which rows of the tile exist, of one word of one pair.
DEVICE u32 existing(const Rows &rows, u32 pair, u32 word) {
    if (rows.count == TILE_ROWS) {
        return ~0U;
    }
    u32 bits = 0;
    for (u32 at = 0; at < 2 * WORD_GROUPS; ++at) {
        const u32 row = (word * WORD_GROUPS + at / 2) * SUM_LANES + 2 * pair + at % 2;
        bits |= (row < rows.count ? 1U : 0U) << at;
    }
    return bits;
}

// Takes rows that are null out of one word of one pair.
DEVICE u32 present(const Column &column, const Rows &rows, u32 pair, u32 word, u32 mask) {
    if (column.bitmap == nullptr || mask == 0) {
        return mask;
    }
    const u8 *bitmap = column.bitmap + rows.first / 8;
    u32 bits = 0;
    if (rows.count == TILE_ROWS) {
        // Of 32 rows at a time: what 16 threads need comes in one load.
        const u32 *words = reinterpret_cast<const u32 *>(bitmap) + word * WORD_GROUPS * (SUM_LANES / 32);
        UNROLL
        for (u32 at = 0; at < WORD_GROUPS; ++at) {
            const u32 found = words[at * (SUM_LANES / 32) + pair / 16];
            bits |= (found >> (2 * (pair % 16)) & 3) << (2 * at);
        }
        return mask & bits;
    }
    for (u32 at = 0; at < WORD_GROUPS; ++at) {
        const u32 row = (word * WORD_GROUPS + at) * SUM_LANES + 2 * pair;
        if (row < rows.count) {
            bits |= (u32)(bitmap[row / 8] >> (row % 8) & 3) << (2 * at);
        }
    }
    return mask & bits;
}

DEVICE bool is_within(u64 value, const Column &column) {
    if (is_integer(column.type)) {
        return (i64)value >= (i64)column.least && (i64)value <= (i64)column.greatest;
    }
    return double_of(value) >= double_of(column.least) && double_of(value) <= double_of(column.greatest);
}

constexpr u32 BATCH = 8;

// Takes rows whose value is outside of the range out of one word of one pair.
DEVICE u32 within(const Column &column, const Rows &rows, u32 pair, u32 word, u32 mask) {
    UNROLL_BY(1)
    for (u32 part = 0; part < WORD_GROUPS; part += BATCH) {
        constexpr u32 BITS = (1U << (2 * BATCH)) - 1;
        if ((mask >> (2 * part) & BITS) == 0) {
            continue;
        }
        u64 values[2 * BATCH];
        load_pairs<BATCH>(column, rows, pair, word * WORD_GROUPS + part, values);
        u32 bits = 0;
        UNROLL
        for (u32 at = 0; at < 2 * BATCH; ++at) {
            bits |= (is_within(values[at], column) ? 1U : 0U) << at;
        }
        mask &= ~(BITS << (2 * part)) | bits << (2 * part);
    }
    return mask;
}

// What a function came to. Sums are integers of 192 bits, the least and the greatest ranks; sums of
// numbers are apart.
struct Found {
    u64 counted;
    u64 value[3];
};

DEVICE void add_to(u64 (&sum)[3], u64 low, u64 middle, u64 high) {
    sum[0] += low;
    const u64 carry = sum[0] < low ? 1 : 0;
    const u64 above = middle + carry;
    const u64 carried = above < carry ? 1 : 0;
    sum[1] += above;
    sum[2] += high + carried + (sum[1] < above ? 1 : 0);
}

// A word that compares as the numbers do, `-0.0` less than `0.0`.
DEVICE i64 rank_of(u64 bits) {
    const i64 own = (i64)bits;
    return own ^ (i64)((u64)(own >> 63) & ~(1ULL << 63));
}

DEVICE Found begin_of(u32 apply) {
    const u64 greatest = ~(1ULL << 63);
    const u64 first = apply == APPLY_MIN ? greatest : apply == APPLY_MAX ? ~greatest : 0;
    return Found{0, {first, 0, 0}};
}

DEVICE void merge_into(Found &found, const Found &other, u32 apply) {
    found.counted += other.counted;
    if (apply == APPLY_MIN || apply == APPLY_MAX) {
        const bool less = (i64)other.value[0] < (i64)found.value[0];
        found.value[0] = less == (apply == APPLY_MIN) ? other.value[0] : found.value[0];
    } else {
        add_to(found.value, other.value[0], other.value[1], other.value[2]);
    }
}

// Fewer at a time than are looked at for a range: what they come to is in registers too.
constexpr u32 TAKEN_BATCH = 4;

// All ones if the bit is one.
DEVICE u64 spread(u32 bits, u32 at) { return 0ULL - (u64)(bits >> at & 1); }

DEVICE void sum_integers(const u64 (&values)[2 * TAKEN_BATCH], u32 bits, Found &found) {
    found.counted += bit_count(bits);
    UNROLL
    for (u32 at = 0; at < 2 * TAKEN_BATCH; ++at) {
        const u64 value = values[at] & spread(bits, at);
        // Its sign goes through all words.
        const u64 sign = (u64)((i64)value >> 63);
        add_to(found.value, value, sign, sign);
    }
}

DEVICE void sum_numbers(const u64 (&values)[2 * TAKEN_BATCH], u32 bits, Found &found, double (&lanes)[2]) {
    found.counted += bit_count(bits);
    UNROLL
    for (u32 at = 0; at < 2 * TAKEN_BATCH; ++at) {
        // Minus zero changes no sum.
        const double value = (bits >> at & 1) != 0 ? double_of(values[at]) : -0.0;
        lanes[at % 2] = add(lanes[at % 2], value);
    }
}

DEVICE void rank_values(const u64 (&values)[2 * TAKEN_BATCH], u32 bits, bool whole, bool is_min, Found &found) {
    UNROLL
    for (u32 at = 0; at < 2 * TAKEN_BATCH; ++at) {
        const bool counts = (bits >> at & 1) != 0 && (whole || !is_nan(double_of(values[at])));
        const i64 rank = whole ? (i64)values[at] : rank_of(values[at]);
        found.counted += counts ? 1 : 0;
        const bool nearer = (rank < (i64)found.value[0]) == is_min;
        found.value[0] = counts && nearer ? (u64)rank : found.value[0];
    }
}

// Sum, least or greatest of one word of one pair. Of numbers the sums go to the two lanes.
DEVICE void scan_one(const Column &column, const Rows &rows, u32 pair, u32 word, u32 mask, u32 apply,
                     Found &found, double (&lanes)[2]) {
    const bool whole = is_integer(column.type);
    UNROLL_BY(1)
    for (u32 part = 0; part < WORD_GROUPS; part += TAKEN_BATCH) {
        const u32 bits = mask >> (2 * part) & ((1U << (2 * TAKEN_BATCH)) - 1);
        if (bits == 0) {
            continue;
        }
        u64 values[2 * TAKEN_BATCH];
        load_pairs<TAKEN_BATCH>(column, rows, pair, word * WORD_GROUPS + part, values);
        if (apply != APPLY_SUM) {
            rank_values(values, bits, whole, apply == APPLY_MIN, found);
        } else if (whole) {
            sum_integers(values, bits, found);
        } else {
            sum_numbers(values, bits, found, lanes);
        }
    }
}

// Sum of products of one word of one pair.
DEVICE void scan_two(const Column &one, const Column &by, const Rows &rows, u32 pair, u32 word, u32 mask,
                     Found &found, double (&lanes)[2]) {
    const bool whole = is_integer(one.type);
    UNROLL_BY(1)
    for (u32 part = 0; part < WORD_GROUPS; part += TAKEN_BATCH) {
        const u32 bits = mask >> (2 * part) & ((1U << (2 * TAKEN_BATCH)) - 1);
        if (bits == 0) {
            continue;
        }
        u64 ones[2 * TAKEN_BATCH];
        u64 bys[2 * TAKEN_BATCH];
        load_pairs<TAKEN_BATCH>(one, rows, pair, word * WORD_GROUPS + part, ones);
        load_pairs<TAKEN_BATCH>(by, rows, pair, word * WORD_GROUPS + part, bys);
        found.counted += bit_count(bits);
        if (whole) {
            UNROLL
            for (u32 at = 0; at < 2 * TAKEN_BATCH; ++at) {
                const u64 factor = ones[at] & spread(bits, at);
                const i64 above = multiply_high((i64)factor, (i64)bys[at]);
                add_to(found.value, factor * bys[at], (u64)above, (u64)(above >> 63));
            }
        } else {
            UNROLL
            for (u32 at = 0; at < 2 * TAKEN_BATCH; ++at) {
                const double product = multiply(double_of(ones[at]), double_of(bys[at]));
                lanes[at % 2] = add(lanes[at % 2], (bits >> at & 1) != 0 ? product : -0.0);
            }
        }
    }
}

} // namespace aggregate
} // namespace orlop
