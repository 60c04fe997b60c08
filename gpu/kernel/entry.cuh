// Entry: what the dispatcher makes of the words of an entry (see `gpu/entry.rs`).
//
// Invariants
// - Tenant, opcode and windows are checked against the device's own tables before anything runs.
// - Words that are no entry are refused, never guessed at.
#pragma once

#include "execute.cuh"

namespace orlop {

constexpr u32 ARGS_FIRST = layout::SLOT_WORDS - layout::ENTRY_ARGS;
static_assert(layout::ENTRY_SLOTS_MAX * layout::SLOT_WORDS == layout::ENTRY_WORDS_MAX, "an entry");
static_assert(ARGS_FIRST == layout::ARGS_FIRST && layout::WINDOW_WORDS == 6, "its words");

struct Shape {
    u32 slots;
    u32 args;
    u32 windows;
};

DEVICE Shape shape_of(const u32 *entry) {
    const u32 word = entry[layout::ENTRY_SHAPE];
    return Shape{word & 0xff, word >> 16 & 0xff, word >> 24 & 0xff};
}

DEVICE bool is_well_formed(const Shape &shape, u32 slots_read) {
    if (shape.windows > layout::WINDOWS_MAX) {
        return false;
    }
    const u32 beyond = shape.args > ARGS_FIRST ? shape.args - ARGS_FIRST : 0;
    const u32 words = layout::SLOT_WORDS + shape.windows * layout::WINDOW_WORDS + beyond;
    const u32 needed = (words + layout::SLOT_WORDS - 1) / layout::SLOT_WORDS;
    return words <= layout::ENTRY_WORDS_MAX && shape.slots == slots_read && needed == slots_read;
}

DEVICE u64 ticket_of(const u32 *entry) {
    return join(entry[layout::ENTRY_TICKET_LOW], entry[layout::ENTRY_TICKET_HIGH]);
}

// The window's place, or why it is refused; zero is none.
DEVICE u32 place_window(const State *s, const u32 *words, u32 tenant_slot, u32 generation, View *view) {
    const u32 slot = words[layout::WINDOW_SLOT];
    if (slot >= s->limits.buffer_slots) {
        return layout::REFUSED_STALE_WINDOW;
    }
    const Mapped *mapped = s->windows + slot;
    if (mapped->is_mapped == 0 || mapped->is_leaving != 0 ||
        mapped->generation != words[layout::WINDOW_GENERATION]) {
        return layout::REFUSED_STALE_WINDOW;
    }
    if (mapped->tenant_slot != tenant_slot || mapped->tenant_generation != generation) {
        return layout::REFUSED_FOREIGN_WINDOW;
    }
    const u64 offset = join(words[layout::WINDOW_OFFSET_LOW], words[layout::WINDOW_OFFSET_HIGH]);
    const u64 length = join(words[layout::WINDOW_LENGTH_LOW], words[layout::WINDOW_LENGTH_HIGH]);
    if (offset > mapped->length || length > mapped->length - offset) {
        return layout::REFUSED_WINDOW_BOUNDS;
    }
    view->offset = mapped->offset + offset;
    view->length = length;
    view->slot = slot;
    return 0;
}

// By the leader: the task that the entry asks for, or why it is refused.
DEVICE u32 fill_task(const Block &b, const u32 *entry, const Shape &shape, Task *task) {
    const State *s = b.state;
    const u32 slot = entry[layout::ENTRY_TENANT_SLOT];
    const u32 generation = entry[layout::ENTRY_TENANT_GENERATION];
    if (slot >= s->limits.tenant_slots || s->tenants[slot].is_known == 0 ||
        s->tenants[slot].generation != generation) {
        return layout::REFUSED_STALE_TENANT;
    }
    const u32 kind = find_op(s, entry[layout::ENTRY_OPCODE], slot, generation);
    if (kind == KIND_NONE) {
        return layout::REFUSED_UNKNOWN_OPCODE;
    }
    for (u32 at = 0; at < shape.windows; ++at) {
        const u32 *words = entry + layout::SLOT_WORDS + at * layout::WINDOW_WORDS;
        const u32 why = place_window(s, words, slot, generation, task->window + at);
        if (why != 0) {
            return why;
        }
    }
    const u32 later = layout::SLOT_WORDS + shape.windows * layout::WINDOW_WORDS;
    for (u32 at = 0; at < shape.args; ++at) {
        task->arg[at] = at < ARGS_FIRST ? entry[layout::ENTRY_ARGS + at] : entry[later + at - ARGS_FIRST];
    }
    const u32 micros = entry[layout::ENTRY_DEADLINE_US];
    task->verdict = 0;
    task->cost = 0;
    task->ticket = ticket_of(entry);
    task->deadline = micros == 0 ? 0 : now_nanos() + (u64)micros * 1000;
    task->attempt = entry[layout::ENTRY_ATTEMPT];
    task->kind = kind;
    task->tenant_slot = slot;
    task->tenant_generation = generation;
    task->args = shape.args;
    task->windows = shape.windows;
    task->first_page = 0;
    task->pages = 0;
    task->pages_wanted = 0;
    task->opened = 0;
    task->next_waiting = NONE;
    return 0;
}

// The tenant's lane: the one it has tasks in, else one that is empty, else one to share.
DEVICE u32 lane_of(State *s, u32 tenant_slot) {
    Tenant *tenant = s->tenants + tenant_slot;
    if (tenant->lane != 0 && ld_relaxed_gpu(&s->lanes[tenant->lane - 1].live) != 0) {
        return tenant->lane - 1;
    }
    u32 lane = tenant_slot % LANE_COUNT;
    for (u32 tried = 0; tried < LANE_COUNT; ++tried) {
        const u32 other = (tenant_slot + tried) % LANE_COUNT;
        if (ld_relaxed_gpu(&s->lanes[other].live) == 0) {
            lane = other;
            break;
        }
    }
    tenant->lane = lane + 1;
    return lane;
}

} // namespace orlop
