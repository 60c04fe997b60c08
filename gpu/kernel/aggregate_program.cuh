// Programs of `filter_aggregate`: their words, as `gpu/ops/aggregate/program.rs` takes them.
#pragma once

#include "block.cuh"
#include "math.cuh"

namespace orlop {
namespace aggregate {

enum Type : u32 { TYPE_I32 = 1, TYPE_I64 = 2, TYPE_F32 = 3, TYPE_F64 = 4 };
enum Apply : u32 { APPLY_COUNT = 1, APPLY_SUM = 2, APPLY_MIN = 3, APPLY_MAX = 4, APPLY_PRODUCTS = 5 };

constexpr u32 COLUMNS_MAX = 8;
constexpr u32 FUNCTIONS_MAX = 8;
constexpr u32 HEADER_WORDS = 3;
constexpr u32 COLUMN_WORDS = 5;
constexpr u32 NULLABLE = 1U << 8;
constexpr u32 RANGED = 1U << 9;
constexpr u32 PROGRAM_WORDS_MAX = HEADER_WORDS + COLUMNS_MAX * COLUMN_WORDS + FUNCTIONS_MAX;
static_assert(PROGRAM_WORDS_MAX <= layout::ARGS_MAX, "a program is kept in place of the arguments");

DEVICE u32 columns_of(const u32 *program) { return program[0] & 0xff; }
DEVICE u32 functions_of(const u32 *program) { return program[0] >> 8 & 0xff; }
DEVICE u64 rows_of(const u32 *program) { return join(program[1], program[2]); }
DEVICE const u32 *column_of(const u32 *program, u32 column) {
    return program + HEADER_WORDS + column * COLUMN_WORDS;
}
DEVICE u32 function_of(const u32 *program, u32 function) {
    return program[HEADER_WORDS + columns_of(program) * COLUMN_WORDS + function];
}
DEVICE u32 type_of(const u32 *program, u32 column) { return column_of(program, column)[0] & 0xff; }
DEVICE bool is_integer(u32 type) { return type <= TYPE_I64; }
DEVICE u32 bytes_of(u32 type) { return type == TYPE_I32 || type == TYPE_F32 ? 4 : 8; }

DEVICE bool is_single(u64 bits) {
    const double value = double_of(bits);
    return !is_nan(value) && (double)narrow(value) == value;
}

DEVICE bool is_column(const u32 *words) {
    const u32 type = words[0] & 0xff;
    const u64 least = join(words[1], words[2]);
    const u64 greatest = join(words[3], words[4]);
    if (type < TYPE_I32 || type > TYPE_F64 || (words[0] & ~(0xffU | NULLABLE | RANGED)) != 0) {
        return false;
    }
    if ((words[0] & RANGED) == 0) {
        return least == 0 && greatest == 0;
    }
    switch (type) {
    case TYPE_I32:
        return (u64)(i64)(i32)least == least && (u64)(i64)(i32)greatest == greatest;
    case TYPE_F32:
        return is_single(least) && is_single(greatest);
    case TYPE_F64:
        return !is_nan(double_of(least)) && !is_nan(double_of(greatest));
    default:
        return true;
    }
}

DEVICE bool is_function(const u32 *program, u32 word) {
    const u32 apply = word & 0xff;
    const u32 column = word >> 8 & 0xff;
    const u32 by = word >> 16 & 0xff;
    if (apply < APPLY_COUNT || apply > APPLY_PRODUCTS || word >> 24 != 0 ||
        column >= columns_of(program)) {
        return false;
    }
    if (apply != APPLY_PRODUCTS) {
        return by == 0;
    }
    return by < columns_of(program) &&
           is_integer(type_of(program, column)) == is_integer(type_of(program, by));
}

DEVICE bool is_program(const u32 *program, u64 words) {
    if (words < HEADER_WORDS || program[0] >> 16 != 0) {
        return false;
    }
    const u32 columns = columns_of(program);
    const u32 functions = functions_of(program);
    if (columns == 0 || columns > COLUMNS_MAX || functions > FUNCTIONS_MAX ||
        words != HEADER_WORDS + columns * COLUMN_WORDS + functions) {
        return false;
    }
    bool sound = true;
    for (u32 column = 0; column < columns; ++column) {
        sound = sound && is_column(column_of(program, column));
    }
    for (u32 function = 0; function < functions; ++function) {
        sound = sound && is_function(program, function_of(program, function));
    }
    return sound;
}

// What a column's windows are wrong by; zero if they are not.
DEVICE u32 check_windows(const Block &b, const Task *task, u32 column, u32 *next) {
    const u32 *words = column_of(task->arg, column);
    const u64 rows = rows_of(task->arg);
    const u32 size = bytes_of(words[0] & 0xff);
    if (*next >= task->windows) {
        return layout::ERROR_MISSING_WINDOW;
    }
    const View *values = task->window + (*next)++;
    if (rows >> 60 != 0 || rows * size != values->length) {
        return layout::ERROR_BAD_LENGTH;
    }
    if ((words[0] & NULLABLE) != 0) {
        if (*next >= task->windows) {
            return layout::ERROR_MISSING_WINDOW;
        }
        const View *bitmap = task->window + (*next)++;
        if (rows / 8 + (rows % 8 != 0 ? 1 : 0) != bitmap->length) {
            return layout::ERROR_BAD_LENGTH;
        }
        if (bitmap->length != 0 && !is_aligned(b.arena + bitmap->offset, 8)) {
            return layout::ERROR_MISALIGNED;
        }
    }
    const bool aligned = values->length == 0 || is_aligned(b.arena + values->offset, size);
    return aligned ? 0 : layout::ERROR_MISALIGNED;
}

// By the leader: has the program stand in the task's arguments, wherever it is. What it fails with.
DEVICE u32 read_program(const Block &b, Task *task, u32 *first_window) {
    *first_window = 0;
    if (task->args == 0) {
        if (task->windows == 0) {
            return layout::ERROR_MISSING_WINDOW;
        }
        const u64 length = task->window[0].length;
        const u8 *bytes = b.arena + task->window[0].offset;
        if (length != 0 && !is_aligned(bytes, 4)) {
            return layout::ERROR_MISALIGNED;
        }
        if (length % 4 != 0) {
            return layout::ERROR_BAD_LENGTH;
        }
        if (length > PROGRAM_WORDS_MAX * 4) {
            return layout::ERROR_BAD_ARGUMENT;
        }
        // Kept, so that what is checked is what runs.
        UNROLL_BY(4)
        for (u32 word = 0; word < (u32)length / 4; ++word) {
            task->arg[word] = reinterpret_cast<const u32 *>(bytes)[word];
        }
        task->args = (u32)length / 4;
        *first_window = 1;
    }
    return is_program(task->arg, task->args) ? 0 : layout::ERROR_BAD_ARGUMENT;
}

} // namespace aggregate
} // namespace orlop
