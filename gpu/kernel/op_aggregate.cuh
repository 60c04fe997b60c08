// `filter_aggregate`: of the rows in ranges, counts, sums, least and greatest values (see
// `gpu/ops/aggregate/mod.rs`, which has the definition that both give the same answers by).
//
// A tile is one or several tiles of the definition. The task's memory holds a record per tile of what
// does not depend on an order, and then of every tile of the definition the sums of numbers.
#pragma once

#include "aggregate_scan.cuh"

namespace orlop {
namespace aggregate {

// Tiles of the definition to a tile, so that there are still many of them.
constexpr u32 PARTS_MAX = 8;
constexpr u32 TILES_ENOUGH = 1024;
constexpr u32 FOUND_WORDS = 4;
constexpr u32 WARPS = THREADS / LANES;

DEVICE u32 first_window(const Task *task) { return task->derived[0]; }
DEVICE u32 parts_per_tile(const Task *task) { return task->derived[1]; }
DEVICE u32 parts_of(const Task *task) { return task->derived[2]; }
DEVICE u32 record_words(const u32 *program) { return 1 + FOUND_WORDS * functions_of(program); }

DEVICE Plan plan(const Block &b, Task *task) {
    u32 first = 0;
    u32 code = read_program(b, task, &first);
    if (code != 0) {
        return refused_plan(code);
    }
    const u32 *program = task->arg;
    u32 next = first;
    for (u32 column = 0; column < columns_of(program) && code == 0; ++column) {
        code = check_windows(b, task, column, &next);
    }
    if (code == 0 && next != task->windows) {
        code = layout::ERROR_BAD_ARGUMENT;
    }
    if (code != 0) {
        return refused_plan(code);
    }
    const u64 rows = rows_of(program);
    const u64 parts = rows == 0 ? 1 : (rows + TILE_ROWS - 1) / TILE_ROWS;
    if (parts > 0xffffffffULL) {
        return refused_plan(layout::ERROR_INPUT_TOO_LONG);
    }
    u32 shift = 0;
    while (1U << shift < PARTS_MAX && parts >> (shift + 1) >= TILES_ENOUGH) {
        shift += 1;
    }
    const u32 together = 1U << shift;
    task->derived[0] = first;
    task->derived[1] = together;
    task->derived[2] = (u32)parts;
    u64 bytes = 0;
    for (u32 window = first; window < task->windows; ++window) {
        bytes += task->window[window].length;
    }
    const u64 tiles = (parts + together - 1) >> shift;
    const u64 words = tiles * record_words(program) + parts * functions_of(program);
    return Plan{tiles, bytes, beyond_a_partial(words * 8), 0};
}

// What a block has in its scratch of the task that it runs.
struct Shared {
    Column columns[COLUMNS_MAX];
    // Which rows are selected: word w of pair p is at 128 w + p.
    u32 masks[MASKS * PAIRS];
    // Of numbers.
    double lanes[SUM_LANES];
    Found of_warp[WARPS];
    // Where the tile's record is, and where the sums of numbers of its next part are.
    u64 *record;
    double *part_sums;
    u32 parts;
    // Of each function, over all parts.
    double sums[FUNCTIONS_MAX];
    u64 result[1 + 3 * FUNCTIONS_MAX];
};
static_assert(sizeof(Shared) <= SCRATCH_WORDS * 4, "the scratch holds it");

DEVICE Shared *shared_of(const Block &b) { return reinterpret_cast<Shared *>(b.scratch->words); }

// By the whole block.
DEVICE void find_columns(const Block &b, const Task *task) {
    if (is_leader()) {
        u32 next = first_window(task);
        for (u32 at = 0; at < columns_of(task->arg); ++at) {
            const u32 *words = column_of(task->arg, at);
            Column *column = shared_of(b)->columns + at;
            column->type = words[0] & 0xff;
            column->is_ranged = words[0] & RANGED;
            column->least = join(words[1], words[2]);
            column->greatest = join(words[3], words[4]);
            column->values = b.arena + task->window[next++].offset;
            const bool nullable = (words[0] & NULLABLE) != 0;
            column->bitmap = nullable ? b.arena + task->window[next++].offset : nullptr;
        }
    }
    sync_block();
}

DEVICE u64 shuffle_word(u64 word, u32 bits) {
    return join(shuffle_xor(low(word), bits), shuffle_xor(high(word), bits));
}

// By the whole block: what all threads found, told to the leader.
DEVICE Found gather(Shared *shared, Found found, u32 apply) {
    for (u32 bits = LANES / 2; bits > 0; bits /= 2) {
        Found other;
        other.counted = shuffle_word(found.counted, bits);
        UNROLL
        for (u32 word = 0; word < 3; ++word) {
            other.value[word] = shuffle_word(found.value[word], bits);
        }
        merge_into(found, other, apply);
    }
    if (thread_index() % LANES == 0) {
        shared->of_warp[thread_index() / LANES] = found;
    }
    sync_block();
    if (is_leader()) {
        UNROLL
        for (u32 warp = 1; warp < WARPS; ++warp) {
            merge_into(found, shared->of_warp[warp], apply);
        }
    }
    sync_block();
    return found;
}

// By the whole block: which rows are selected, and how many this thread has of them.
DEVICE u64 select_rows(const Shared *shared, u32 columns, const Rows &rows, u32 *masks) {
    u64 selected = 0;
    for (u32 pair = thread_index(); pair < PAIRS; pair += THREADS) {
        UNROLL_BY(1)
        for (u32 word = 0; word < MASKS; ++word) {
            u32 mask = existing(rows, pair, word);
            UNROLL_BY(1)
            for (u32 at = 0; at < columns; ++at) {
                const Column &column = shared->columns[at];
                if (column.is_ranged != 0) {
                    mask = present(column, rows, pair, word, mask);
                    mask = within(column, rows, pair, word, mask);
                }
            }
            // Read by this thread alone.
            masks[word * PAIRS + pair] = mask;
            selected += bit_count(mask);
        }
    }
    return selected;
}

// The sum of all lanes in the order of the definition, by the whole block.
DEVICE void fold_lanes(double *lanes) {
    sync_block();
    for (u32 half = SUM_LANES / 2; half > 0; half /= 2) {
        for (u32 lane = thread_index(); lane < half; lane += THREADS) {
            lanes[lane] = add(lanes[lane], lanes[lane + half]);
        }
        sync_block();
    }
}

// By the whole block: one function over the selected rows; the leader has what it came to.
DEVICE Found apply_function(Shared *shared, u32 function, const Rows &rows) {
    const u32 apply = function & 0xff;
    const Column &column = shared->columns[function >> 8 & 0xff];
    const Column &by = shared->columns[function >> 16 & 0xff];
    Found found = begin_of(apply);
    for (u32 pair = thread_index(); pair < PAIRS; pair += THREADS) {
        double lanes[2] = {-0.0, -0.0};
        UNROLL_BY(1)
        for (u32 word = 0; word < MASKS; ++word) {
            u32 mask = present(column, rows, pair, word, shared->masks[word * PAIRS + pair]);
            if (apply == APPLY_COUNT) {
                found.counted += bit_count(mask);
            } else if (apply == APPLY_PRODUCTS) {
                mask = present(by, rows, pair, word, mask);
                scan_two(column, by, rows, pair, word, mask, found, lanes);
            } else {
                scan_one(column, rows, pair, word, mask, apply, found, lanes);
            }
        }
        shared->lanes[2 * pair] = lanes[0];
        shared->lanes[2 * pair + 1] = lanes[1];
    }
    if ((apply == APPLY_SUM || apply == APPLY_PRODUCTS) && !is_integer(column.type)) {
        fold_lanes(shared->lanes);
    }
    return gather(shared, found, apply);
}

// By the leader: adds to a record of the tile what one part came to.
DEVICE void record(u64 *words, const Found &found, u32 apply, bool is_first) {
    Found all = found;
    if (!is_first) {
        const Found before{words[0], {words[1], words[2], words[3]}};
        merge_into(all, before, apply);
    }
    words[0] = all.counted;
    UNROLL
    for (u32 word = 0; word < 3; ++word) {
        words[1 + word] = all.value[word];
    }
}

// By the whole block: one part, which is a tile of the definition.
DEVICE void run_part(Shared *shared, const u32 *program, u64 first_row, bool is_first) {
    const u64 rest = rows_of(program) - first_row;
    const Rows rows{first_row, rest < TILE_ROWS ? (u32)rest : TILE_ROWS};
    const u64 selected = select_rows(shared, columns_of(program), rows, shared->masks);
    const Found all = gather(shared, Found{selected, {0, 0, 0}}, APPLY_COUNT);
    if (is_leader()) {
        shared->record[0] = is_first ? all.counted : shared->record[0] + all.counted;
    }
    UNROLL_BY(1)
    for (u32 at = 0; at < functions_of(program); ++at) {
        const u32 function = function_of(program, at);
        const Found found = apply_function(shared, function, rows);
        if (is_leader()) {
            record(shared->record + 1 + at * FOUND_WORDS, found, function & 0xff, is_first);
            shared->part_sums[at] = shared->lanes[0];
        }
        // The lanes are the next function's.
        sync_block();
    }
}

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *memory) {
    Shared *shared = shared_of(b);
    const u32 *program = task->arg;
    find_columns(b, task);
    // In the scratch, as registers are few.
    if (is_leader()) {
        const u32 first = tile * parts_per_tile(task);
        const u32 left = parts_of(task) - first;
        u64 *words = reinterpret_cast<u64 *>(memory);
        u64 *sums = words + (u64)task->tiles * record_words(program) + (u64)first * functions_of(program);
        shared->record = words + (u64)tile * record_words(program);
        shared->part_sums = reinterpret_cast<double *>(sums);
        shared->parts = left < parts_per_tile(task) ? left : parts_per_tile(task);
    }
    sync_block();
    const u32 parts = shared->parts;
    UNROLL_BY(1)
    for (u32 part = 0; part < parts; ++part) {
        run_part(shared, program, ((u64)tile * parts_per_tile(task) + part) * TILE_ROWS, part == 0);
        if (is_leader()) {
            shared->part_sums += functions_of(program);
        }
    }
}

DEVICE u64 canonical(double value) { return is_nan(value) ? 0x7ff8000000000000ULL : bits_of(value); }

// The 16 bytes of a value; `sum` is that of numbers. Whether an exact sum has 128 bits.
DEVICE bool value_of(const u32 *program, u32 function, const Found &found, double sum, u64 (&value)[2]) {
    const u32 apply = function & 0xff;
    value[0] = 0;
    value[1] = 0;
    if (found.counted == 0 || apply == APPLY_COUNT) {
        return true;
    }
    const bool whole = is_integer(type_of(program, function >> 8 & 0xff));
    if (apply == APPLY_MIN || apply == APPLY_MAX) {
        const u64 rank = found.value[0];
        value[0] = whole ? rank : canonical(double_of((u64)rank_of(rank)));
        value[1] = whole ? (u64)((i64)rank >> 63) : 0;
        return true;
    }
    if (!whole) {
        value[0] = canonical(sum);
        return true;
    }
    value[0] = found.value[0];
    value[1] = found.value[1];
    return found.value[2] == (u64)((i64)found.value[1] >> 63);
}

// By the whole block: the sums of numbers over all parts, in ascending order.
DEVICE void sum_parts(Shared *shared, const double *sums, u32 parts, u32 functions) {
    // As many of all functions as there is room for.
    constexpr u32 together = SUM_LANES / FUNCTIONS_MAX;
    for (u32 at = thread_index(); at < functions; at += THREADS) {
        shared->sums[at] = -0.0;
    }
    for (u32 base = 0; base < parts; base += together) {
        const u32 here = parts - base < together ? parts - base : together;
        for (u32 at = thread_index(); at < here * functions; at += THREADS) {
            shared->lanes[at] = sums[(u64)base * functions + at];
        }
        sync_block();
        for (u32 function = thread_index(); function < functions; function += THREADS) {
            double sum = shared->sums[function];
            UNROLL_BY(4)
            for (u32 at = 0; at < here; ++at) {
                sum = add(sum, shared->lanes[at * functions + function]);
            }
            shared->sums[function] = sum;
        }
        sync_block();
    }
}

// By the whole block: of all tiles, told to the leader.
DEVICE Found gather_tiles(Shared *shared, const Task *task, const u64 *words, u32 at, u32 apply) {
    const u32 record = record_words(task->arg);
    Found found = begin_of(apply);
    for (u32 tile = thread_index(); tile < task->tiles; tile += THREADS) {
        const u64 *own = words + (u64)tile * record + 1 + at * FOUND_WORDS;
        merge_into(found, Found{own[0], {own[1], own[2], own[3]}}, apply);
    }
    return gather(shared, found, apply);
}

// By the leader: an exact sum that is too long fails the task, unless the result was before.
DEVICE void fail_long(const Block &b, u32 at) {
    const u64 room = b.state->result_bytes < layout::INLINE_BYTES ? layout::INLINE_BYTES : b.state->result_bytes;
    b.scratch->code = 16 + 24 * (u64)at <= room ? layout::ERROR_OVERFLOW : layout::ERROR_RESULT_TOO_LONG;
}

DEVICE void reduce(const Block &b, const Task *task, const u8 *memory) {
    Shared *shared = shared_of(b);
    const u32 *program = task->arg;
    const u32 functions = functions_of(program);
    const u64 *words = reinterpret_cast<const u64 *>(memory);
    u64 selected = 0;
    for (u32 tile = thread_index(); tile < task->tiles; tile += THREADS) {
        selected += words[(u64)tile * record_words(program)];
    }
    const Found all = gather(shared, Found{selected, {0, 0, 0}}, APPLY_COUNT);
    if (functions != 0) {
        const u64 *sums = words + (u64)task->tiles * record_words(program);
        sum_parts(shared, reinterpret_cast<const double *>(sums), parts_of(task), functions);
    }
    if (is_leader()) {
        shared->result[0] = all.counted;
    }
    for (u32 at = 0; at < functions; ++at) {
        const u32 function = function_of(program, at);
        const Found found = gather_tiles(shared, task, words, at, function & 0xff);
        if (is_leader()) {
            u64 value[2];
            if (!value_of(program, function, found, shared->sums[at], value) && b.scratch->code == 0) {
                fail_long(b, at);
            }
            shared->result[1 + 3 * at] = found.counted;
            shared->result[2 + 3 * at] = value[0];
            shared->result[3 + 3 * at] = value[1];
        }
    }
    sync_block();
    if (b.scratch->code == 0) {
        tell_words(b, task, reinterpret_cast<const u32 *>(shared->result), 8 + 24 * (u64)functions);
    }
}

} // namespace aggregate
} // namespace orlop
