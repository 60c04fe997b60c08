// `blake3`: the digest of one window, tiled along the hash's own tree (see `gpu/ops/blake3.rs`).
//
// Source: BLAKE3 paper, sections 2.1 to 2.4.
#pragma once

#include "block.cuh"

namespace orlop {
namespace blake3 {

constexpr u32 CHUNK_BYTES = 1024;
constexpr u32 TILE_CHUNKS = layout::BLAKE3_TILE_BYTES / CHUNK_BYTES;
static_assert(TILE_CHUNKS * 8 <= 2048 && (TILE_CHUNKS & (TILE_CHUNKS - 1)) == 0, "a tile's values fit in the scratch");

constexpr u32 CHUNK_START = 1;
constexpr u32 CHUNK_END = 2;
constexpr u32 PARENT = 4;
constexpr u32 ROOT = 8;

struct Value {
    u32 words[8];
};

DEVICE u32 rotate(u32 word, u32 by) { return word >> by | word << (32 - by); }

DEVICE void mix(u32 &a, u32 &b, u32 &c, u32 &d, u32 x, u32 y) {
    a = a + b + x;
    d = rotate(d ^ a, 16);
    c = c + d;
    b = rotate(b ^ c, 12);
    a = a + b + y;
    d = rotate(d ^ a, 8);
    c = c + d;
    b = rotate(b ^ c, 7);
}

DEVICE Value initial() {
    return Value{{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                  0x5be0cd19}};
}

DEVICE Value compress(const Value &value, u32 (&m)[16], u64 counter, u32 length, u32 flags) {
    u32 v[16];
    const Value iv = initial();
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        v[i] = value.words[i];
    }
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        v[8 + i] = iv.words[i];
    }
    v[12] = low(counter);
    v[13] = high(counter);
    v[14] = length;
    v[15] = flags;
    UNROLL
    for (u32 round = 0; round < 7; ++round) {
        mix(v[0], v[4], v[8], v[12], m[0], m[1]);
        mix(v[1], v[5], v[9], v[13], m[2], m[3]);
        mix(v[2], v[6], v[10], v[14], m[4], m[5]);
        mix(v[3], v[7], v[11], v[15], m[6], m[7]);
        mix(v[0], v[5], v[10], v[15], m[8], m[9]);
        mix(v[1], v[6], v[11], v[12], m[10], m[11]);
        mix(v[2], v[7], v[8], v[13], m[12], m[13]);
        mix(v[3], v[4], v[9], v[14], m[14], m[15]);
        const u32 p[16] = {m[2], m[6], m[3], m[10], m[7], m[0], m[4], m[13],
                           m[1], m[11], m[12], m[5], m[9], m[14], m[15], m[8]};
        UNROLL
        for (u32 i = 0; i < 16; ++i) {
            m[i] = p[i];
        }
    }
    Value out;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        out.words[i] = v[i] ^ v[i + 8];
    }
    return out;
}

// One chunk: the `ordinal`-th of the input.
DEVICE Value chunk(const u8 *bytes, u64 length, u64 ordinal, bool is_root) {
    Value value = initial();
    const bool in_words = is_aligned(bytes, 4);
    const bool in_quads = is_aligned(bytes, 16);
    u32 start = CHUNK_START;
    u32 done = 0;
    do {
        const u32 left = (u32)length - done;
        const u32 here = left < 64 ? left : 64;
        u32 m[16];
        if (in_quads && here == 64) {
            UNROLL
            for (u32 i = 0; i < 16; i += 4) {
                const Quad found = load_16(bytes + done + i * 4);
                UNROLL
                for (u32 word = 0; word < 4; ++word) {
                    m[i + word] = found.words[word];
                }
            }
        } else {
            UNROLL
            for (u32 i = 0; i < 16; ++i) {
                m[i] = i * 4 < here ? word_at(bytes + done + i * 4, here - i * 4, in_words) : 0;
            }
        }
        const u32 end = left > 64 ? 0 : CHUNK_END | (is_root ? ROOT : 0);
        value = compress(value, m, ordinal, here, start | end);
        start = 0;
        done += here;
    } while (done < length);
    return value;
}

DEVICE Value parent(const u32 *left, const u32 *right, bool is_root) {
    u32 m[16];
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        m[i] = left[i];
        m[8 + i] = right[i];
    }
    return compress(initial(), m, 0, 64, PARENT | (is_root ? ROOT : 0));
}

DEVICE void copy_value(u32 *to, const u32 *from) {
    for (u32 i = thread_index(); i < 8; i += THREADS) {
        to[i] = from[i];
    }
}

// By the whole block: merges neighbours level by level, in place, one value per `stride` words. A
// value without neighbour rises as it is, which gives the hash's own tree.
DEVICE void merge(u32 *values, u32 stride, u32 count, bool is_root) {
    while (count > 1) {
        const u32 pairs = count / 2;
        for (u32 base = 0; base < pairs; base += THREADS) {
            const u32 pair = base + thread_index();
            const bool mine = pair < pairs;
            Value merged = initial();
            if (mine) {
                const u32 *left = values + (u64)pair * 2 * stride;
                merged = parent(left, left + stride, is_root && count == 2);
            }
            sync_block();
            if (mine) {
                UNROLL
                for (u32 i = 0; i < 8; ++i) {
                    values[(u64)pair * stride + i] = merged.words[i];
                }
            }
        }
        sync_block();
        if (count % 2 == 1) {
            copy_value(values + (u64)pairs * stride, values + (u64)(count - 1) * stride);
        }
        count = pairs + count % 2;
        sync_block();
    }
}

DEVICE u64 tiles(const Task *task) {
    const u64 length = task->window[0].length;
    return length == 0 ? 1 : (length + layout::BLAKE3_TILE_BYTES - 1) / layout::BLAKE3_TILE_BYTES;
}

DEVICE void run_tile(const Block &b, const Task *task, u32 tile, u8 *partial) {
    const u64 start = (u64)tile * layout::BLAKE3_TILE_BYTES;
    const u64 rest = task->window[0].length - start;
    const u64 length = rest < layout::BLAKE3_TILE_BYTES ? rest : layout::BLAKE3_TILE_BYTES;
    const u8 *bytes = b.arena + task->window[0].offset + start;
    const u32 chunks = length == 0 ? 1 : (u32)((length + CHUNK_BYTES - 1) / CHUNK_BYTES);
    const bool alone = task->tiles == 1;
    u32 *values = b.scratch->words;
    for (u32 at = thread_index(); at < chunks; at += THREADS) {
        const u64 begin = (u64)at * CHUNK_BYTES;
        const u64 left = length - begin;
        const u64 here = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        const Value value = chunk(bytes + begin, here, start / CHUNK_BYTES + at, alone && chunks == 1);
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            values[at * 8 + i] = value.words[i];
        }
    }
    sync_block();
    merge(values, 8, chunks, alone);
    copy_value(reinterpret_cast<u32 *>(partial), values);
}

DEVICE void reduce(const Block &b, const Task *task, u8 *partials) {
    u32 *values = reinterpret_cast<u32 *>(partials);
    merge(values, PARTIAL_BYTES / 4, task->tiles, true);
    if (is_leader()) {
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            b.scratch->result[i] = values[i];
        }
        b.scratch->length = 32;
    }
}

} // namespace blake3
} // namespace orlop
