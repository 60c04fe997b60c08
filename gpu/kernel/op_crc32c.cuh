// `crc32c`: the Castagnoli checksum of one window, tiled and combined (see `gpu/ops/crc32c.rs`).
//
// The checksum of a whole is the sum, in GF(2), of the checksums of its parts, each multiplied by x
// to the number of bits that follow it.
#pragma once

#include "block.cuh"

namespace orlop {
namespace crc32c {

constexpr u32 POLYNOMIAL = 0x82f63b78;

DEVICE u32 times_x(u32 value) { return value >> 1 ^ ((0U - (value & 1)) & POLYNOMIAL); }

DEVICE u32 multiply(u32 one, u32 other) {
    u32 product = 0;
    for (u32 bit = 0; bit < 32; ++bit) {
        product ^= (0U - (one >> 31)) & other;
        one <<= 1;
        other = times_x(other);
    }
    return product;
}

// The checksum, moved in front of so many bytes.
DEVICE u32 shift(u32 sum, u64 bytes) {
    // x to the eighth: one byte.
    u32 factor = 1U << 23;
    for (; bytes != 0; bytes >>= 1) {
        if ((bytes & 1) != 0) {
            sum = multiply(factor, sum);
        }
        factor = multiply(factor, factor);
    }
    return sum;
}

constexpr u32 TABLES = 4;
constexpr u32 TABLE_WORDS = TABLES * 256;

// By the whole block: what each byte comes to when 0 to 3 more follow it, in the scratch.
DEVICE void fill_tables(u32 *tables) {
    for (u32 byte = thread_index(); byte < 256; byte += THREADS) {
        u32 value = byte;
        UNROLL
        for (u32 bit = 0; bit < 8; ++bit) {
            value = times_x(value);
        }
        tables[byte] = value;
    }
    sync_block();
    for (u32 byte = thread_index(); byte < 256; byte += THREADS) {
        u32 value = tables[byte];
        UNROLL
        for (u32 table = 1; table < TABLES; ++table) {
            value = value >> 8 ^ tables[value & 0xff];
            tables[table * 256 + byte] = value;
        }
    }
    sync_block();
}

DEVICE u32 add_byte(const u32 *tables, u32 sum, u8 byte) {
    return sum >> 8 ^ tables[(sum ^ byte) & 0xff];
}

DEVICE u32 add_word(const u32 *tables, u32 sum, u32 word) {
    sum ^= word;
    return tables[768 + (sum & 0xff)] ^ tables[512 + (sum >> 8 & 0xff)] ^
           tables[256 + (sum >> 16 & 0xff)] ^ tables[sum >> 24];
}

DEVICE u32 sum_of(const u32 *tables, const u8 *bytes, u64 length) {
    const u8 *end = bytes + length;
    u32 sum = ~0U;
    while (bytes < end && !is_aligned(bytes, 16)) {
        sum = add_byte(tables, sum, *bytes++);
    }
    UNROLL_BY(4)
    for (u64 left = (u64)(end - bytes) / 16; left > 0; --left) {
        const Quad found = load_16(bytes);
        UNROLL
        for (u32 word = 0; word < 4; ++word) {
            sum = add_word(tables, sum, found.words[word]);
        }
        bytes += 16;
    }
    while (bytes < end) {
        sum = add_byte(tables, sum, *bytes++);
    }
    return ~sum;
}

// By the whole block: the sum of one word per thread, told to the leader. Begins and ends in step.
DEVICE u32 gather(u32 *words, u32 mine) {
    words[thread_index()] = mine;
    sync_block();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (thread_index() < half) {
            words[thread_index()] ^= words[thread_index() + half];
        }
        sync_block();
    }
    return words[0];
}

DEVICE u64 tiles(const Task *task) {
    const u64 length = task->window[0].length;
    return length == 0 ? 1 : (length + layout::CRC32C_TILE_BYTES - 1) / layout::CRC32C_TILE_BYTES;
}

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *partial) {
    u32 *tables = b.scratch->words;
    fill_tables(tables);
    const u64 start = (u64)tile * layout::CRC32C_TILE_BYTES;
    const u64 rest = task->window[0].length - start;
    const u64 length = rest < layout::CRC32C_TILE_BYTES ? rest : layout::CRC32C_TILE_BYTES;
    const u8 *bytes = b.arena + task->window[0].offset + start;
    const u64 piece = (length + THREADS - 1) / THREADS;
    const u64 begin = piece * thread_index() < length ? piece * thread_index() : length;
    const u64 end = begin + piece < length ? begin + piece : length;
    const u32 own = shift(sum_of(tables, bytes + begin, end - begin), length - end);
    const u32 sum = gather(tables + TABLE_WORDS, own);
    if (is_leader()) {
        *reinterpret_cast<u32 *>(partial) = sum;
    }
}

DEVICE void reduce(const Block &b, const Task *task, const u8 *partials) {
    const u64 length = task->window[0].length;
    u32 own = 0;
    for (u32 tile = thread_index(); tile < task->tiles; tile += THREADS) {
        const u64 ends = ((u64)tile + 1) * layout::CRC32C_TILE_BYTES;
        const u64 after = ends < length ? length - ends : 0;
        own ^= shift(*reinterpret_cast<const u32 *>(partials + (u64)tile * PARTIAL_BYTES), after);
    }
    const u32 sum = gather(b.scratch->words, own);
    if (is_leader()) {
        b.scratch->result[0] = sum;
        b.scratch->length = 4;
    }
}

} // namespace crc32c
} // namespace orlop
