// Dispatch: block 0 reads the rings, and puts in line what it does not run itself.
//
// Invariants
// - An order takes effect after every entry that was visible when the order was read.
// - Every fetched entry gets exactly one completion, every order exactly one reply.
#pragma once

#include "control.cuh"

namespace orlop {

// Looks at the rings in a row before the dispatcher looks after everything else.
constexpr u32 POLLS = 32;
constexpr u32 POLL_NANOS = 64;

enum Seen : u32 { SEEN_NOTHING = 0, SEEN_ENTRY = 1, SEEN_ORDER = 2 };

DEVICE bool is_retired(const Block &b) {
    const Slot *header = reinterpret_cast<const Slot *>(b.shared) + 1;
    return ld_relaxed_sys(&header->words[layout::HEADER_GENERATION]) != b.generation;
}

// By the first warp: looks at both rings until there is something, or for so many times. Not yet
// fenced: what was seen is only good for deciding whether to.
DEVICE u32 poll(const Block &b, const Ring &entries, const Ring &orders, u32 polls) {
    const State *s = b.state;
    const u32 lane = thread_index();
    const u32 of_entries = sequence_of(s->fetched, entries.shift);
    const u32 of_orders = sequence_of(s->ordered, orders.shift);
    const Slot *entry = slot_at(entries, s->fetched);
    const Slot *order = slot_at(orders, s->ordered);
    u32 seen = SEEN_NOTHING;
    for (u32 turn = 0; turn < polls && seen == SEEN_NOTHING; ++turn) {
        if (turn > 0) {
            nanosleep(POLL_NANOS);
        }
        bool has_entry = true;
        bool has_order = true;
        for (u32 at = lane; at < layout::SLOT_WORDS; at += LANES) {
            const u64 of_entry = ld_relaxed_sys(&entry->words[at]);
            const u64 of_order = ld_relaxed_sys(&order->words[at]);
            has_entry = has_entry && high(of_entry) == of_entries;
            has_order = has_order && high(of_order) == of_orders;
            b.scratch->entry[at] = low(of_entry);
            b.scratch->order[at] = low(of_order);
        }
        has_entry = warp_all(has_entry);
        has_order = warp_all(has_order);
        seen = (has_entry ? SEEN_ENTRY : 0U) | (has_order ? SEEN_ORDER : 0U);
    }
    if (seen != SEEN_NOTHING) {
        fence_sys();
    }
    if (seen == SEEN_ORDER && read_slot(entries, s->fetched, b.scratch->entry, lane)) {
        // Written before the order, and seen only after it.
        fence_sys();
        seen |= SEEN_ENTRY;
    }
    sync_warp();
    return seen;
}

// By the first warp: the rest of the entry whose first slot is in the scratch. How many slots it
// has, or zero if not all of them are there yet.
DEVICE u32 read_rest(const Block &b, const Ring &entries) {
    const u64 fetched = b.state->fetched;
    const u32 announced = b.scratch->entry[layout::ENTRY_SHAPE] & 0xff;
    // What announces an impossible count is taken as one slot, and refused as malformed.
    if (announced > until_end(entries, fetched) || announced > layout::ENTRY_SLOTS_MAX) {
        return 1;
    }
    for (u32 at = 1; at < announced; ++at) {
        u32 *into = b.scratch->entry + at * layout::SLOT_WORDS;
        if (!read_slot(entries, fetched + at, into, thread_index())) {
            return 0;
        }
    }
    fence_sys();
    return announced == 0 ? 1 : announced;
}

enum Outcome : u32 { OUTCOME_NONE, OUTCOME_POST, OUTCOME_RUN };

// By the leader: the entry ends here; its place in the table, if it has one, is free again.
DEVICE u32 turn_away(const Block &b, u32 index, u32 attempt, u32 kind, u32 code) {
    write_completion(b, ticket_of(b.scratch->entry), attempt, kind, code, 0);
    if (index != NONE) {
        give_task(b.state, index);
    }
    return OUTCOME_POST;
}

DEVICE void wait_for_pages(State *s, u32 index) {
    if (s->waiting_first == NONE) {
        s->waiting_first = index;
    } else {
        s->tasks[s->waiting_last].next_waiting = index;
    }
    s->waiting_last = index;
    s->lanes[s->tasks[index].lane].waiting += 1;
}

// The pages that the task is to have. Who comes later is not given any for long while another waits:
// what is given back then comes to be as much as that one needs.
DEVICE bool take_wanted(State *s, Task *task) {
    if (task->pages_wanted == 0) {
        return true;
    }
    const bool overtakes = s->waiting_first != NONE;
    if (overtakes && s->passed >= PASSED_MAX) {
        return false;
    }
    if (!take_pages(s, task->pages_wanted, &task->first_page)) {
        return false;
    }
    task->pages = task->pages_wanted;
    s->passed += overtakes ? 1 : 0;
    return true;
}

// By the leader: puts the task in line, or among those that wait for pages.
DEVICE void place(State *s, u32 index) {
    Task *task = s->tasks + index;
    // Not past a task of the same lane that waits: in order within a tenant.
    if (s->lanes[task->lane].waiting != 0 || !take_wanted(s, task)) {
        wait_for_pages(s, index);
    } else {
        push_task(s, index);
    }
}

DEVICE void place_waiting(State *s) {
    while (s->waiting_first != NONE) {
        const u32 index = s->waiting_first;
        Task *task = s->tasks + index;
        if (task->pages_wanted != 0 && !take_pages(s, task->pages_wanted, &task->first_page)) {
            return;
        }
        task->pages = task->pages_wanted;
        unlink_waiting(s, index);
        push_task(s, index);
    }
}

// By the leader: what becomes of the entry in the scratch.
DEVICE u32 accept(const Block &b, u32 slots_read) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    const u32 *entry = scratch->entry;
    s->fetched += slots_read;
    if (entry[layout::ENTRY_OPCODE] == layout::OPCODE_PAD) {
        return OUTCOME_NONE;
    }
    atom_add_gpu(&s->active, 1ULL);
    const Shape shape = shape_of(entry);
    if (!is_well_formed(shape, slots_read)) {
        return turn_away(b, NONE, 0, REFUSED, layout::REFUSED_MALFORMED);
    }
    const u32 index = take_task(s);
    Task *task = s->tasks + index;
    const u32 attempt = entry[layout::ENTRY_ATTEMPT];
    const u32 why = fill_task(b, entry, shape, task);
    if (why != 0) {
        return turn_away(b, index, attempt, REFUSED, why);
    }
    if (s->stopping != 0) {
        return turn_away(b, index, attempt, CANCELLED, 0);
    }
    const Plan plan = plan_op_of<ANY_KIND>(b, task);
    if (plan.code != 0) {
        return turn_away(b, index, attempt, FAILED, plan.code);
    }
    const u32 asked = entry[layout::ENTRY_TILES];
    const u32 bound = s->limits.tiles_max;
    const u64 allowed = asked == 0 || asked > bound ? bound : asked;
    const u64 pages = pages_for(plan.memory);
    const bool fits = plan.tiles <= TILES_MAX && plan.tiles <= allowed;
    if ((plan.tiles > 1 && !fits) || pages > s->limits.pool_pages) {
        return turn_away(b, index, attempt, REFUSED, layout::REFUSED_TOO_MANY_TILES);
    }
    for (u32 at = 0; at < task->windows; ++at) {
        atom_add_gpu(&s->windows[task->window[at].slot].pins, 1U);
    }
    task->tiles = (u32)plan.tiles;
    task->pages_wanted = (u32)pages;
    task->left = task->tiles == 0 ? 1 : task->tiles;
    task->lane = lane_of(s, task->tenant_slot);
    atom_add_gpu(&s->lanes[task->lane].live, 1U);
    s->task_of_permit[task->ticket & (s->tickets - 1)] = index;
    if (plan.tiles <= 1 && plan.bytes <= OWN_BYTES_MAX && s->lanes[task->lane].waiting == 0 &&
        take_wanted(s, task)) {
        scratch->task = index;
        scratch->tile = 0;
        return OUTCOME_RUN;
    }
    place(s, index);
    return OUTCOME_NONE;
}

// By the leader: what the block does when the rings have nothing for it.
DEVICE u32 rest(const Block &b, bool is_retired_now) {
    State *s = b.state;
    if (is_retired_now || (s->stopping != 0 && ld_relaxed_gpu(&s->active) == 0)) {
        st_relaxed_gpu(&s->halted, b.generation);
        return JOB_EXIT;
    }
    // Without other blocks the tiles are the dispatcher's too.
    Claimed claimed;
    if (block_count() == 1 && claim_next(s, &claimed)) {
        b.scratch->task = claimed.task;
        b.scratch->tile = claimed.tile;
        return JOB_RUN;
    }
    return JOB_NONE;
}

// By the first warp of block 0: one step.
DEVICE void dispatch(const Block &b) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    const Ring entries = ring_at(b, s->entries_at, s->entry_shift);
    const Ring orders = ring_at(b, s->control_at, s->control_shift);
    const bool busy = s->deferred_count != 0 || s->waiting_first != NONE || s->stopping != 0 ||
                      block_count() == 1;
    u32 seen = poll(b, entries, orders, busy ? 1 : POLLS);
    if (s->deferred_count == layout::CONTROL_SLOTS) {
        seen &= ~(u32)SEEN_ORDER;
    }
    // However many entries follow it, an order waits for a lap of them at most.
    const bool overdue = s->order_after != 0 && s->fetched + 1 >= s->order_after;
    u32 slots = 0;
    if ((seen & SEEN_ENTRY) != 0 && !((seen & SEEN_ORDER) != 0 && overdue)) {
        slots = read_rest(b, entries);
    }
    sync_warp();
    if (is_leader()) {
        scratch->job = JOB_NONE;
        scratch->flag = OUTCOME_NONE;
        if (slots != 0) {
            if ((seen & SEEN_ORDER) != 0 && s->order_after == 0) {
                s->order_after = s->fetched + slots_of(entries) + 1;
            }
            scratch->flag = accept(b, slots);
        }
    }
    sync_warp();
    const u32 outcome = scratch->flag;
    sync_warp();
    if (outcome == OUTCOME_POST) {
        post_completion(b);
    }
    // An entry of which a slot is still to come was not visible yet.
    if (slots == 0 && (seen & SEEN_ORDER) != 0) {
        obey(b);
    }
    settle_deferred(b);
    if (is_leader()) {
        if (s->waiting_first != NONE) {
            place_waiting(s);
        }
        const bool retired = is_retired(b);
        if (outcome == OUTCOME_RUN) {
            scratch->job = JOB_RUN;
        } else if (retired || (slots == 0 && seen == SEEN_NOTHING)) {
            scratch->job = rest(b, retired);
        }
    }
    sync_warp();
}

} // namespace orlop
