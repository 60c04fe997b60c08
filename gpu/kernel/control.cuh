// Control: the orders, carried out by the dispatcher (see `gpu/control.rs`).
//
// All of it by the first warp of block 0; its first lane decides.
#pragma once

#include "entry.cuh"

namespace orlop {

// Not a reply: the order waits for pins or for quiet.
constexpr u32 LATER = 0;

DEVICE u32 map_window(State *s, const u32 *body) {
    const u64 offset = join(body[2], body[3]);
    const u64 length = join(body[4], body[5]);
    if (body[0] >= s->limits.buffer_slots) {
        return layout::REPLY_UNKNOWN;
    }
    if (offset > s->arena_bytes || length > s->arena_bytes - offset) {
        return layout::REPLY_MALFORMED;
    }
    Mapped *mapped = s->windows + body[0];
    if (mapped->is_mapped != 0) {
        return layout::REPLY_STALE;
    }
    mapped->offset = offset;
    mapped->length = length;
    mapped->generation = body[1];
    mapped->tenant_slot = body[6];
    mapped->tenant_generation = body[7];
    mapped->is_mapped = 1;
    mapped->is_leaving = 0;
    return layout::REPLY_DONE;
}

DEVICE u32 unmap_window(State *s, const u32 *body) {
    if (body[0] >= s->limits.buffer_slots || s->windows[body[0]].is_mapped == 0) {
        return layout::REPLY_UNKNOWN;
    }
    Mapped *mapped = s->windows + body[0];
    if (mapped->generation != body[1] || mapped->is_leaving != 0) {
        return layout::REPLY_STALE;
    }
    mapped->is_leaving = 1;
    return LATER;
}

DEVICE u32 set_tenant(State *s, const u32 *body) {
    if (body[0] >= s->limits.tenant_slots) {
        return layout::REPLY_UNKNOWN;
    }
    s->tenants[body[0]].generation = body[1];
    s->tenants[body[0]].is_known = 1;
    return layout::REPLY_DONE;
}

DEVICE u32 clear_tenant(State *s, const u32 *body) {
    if (body[0] >= s->limits.tenant_slots || s->tenants[body[0]].is_known == 0) {
        return layout::REPLY_UNKNOWN;
    }
    if (s->tenants[body[0]].generation != body[1]) {
        return layout::REPLY_STALE;
    }
    s->tenants[body[0]].is_known = 0;
    return layout::REPLY_DONE;
}

// Takes a task out of those that wait for pages; whether it was there.
DEVICE bool unlink_waiting(State *s, u32 index) {
    u32 before = NONE;
    for (u32 at = s->waiting_first; at != NONE; at = s->tasks[at].next_waiting) {
        if (at == index) {
            const u32 next = s->tasks[at].next_waiting;
            if (before == NONE) {
                s->waiting_first = next;
                s->passed = 0;
            } else {
                s->tasks[before].next_waiting = next;
            }
            if (next == NONE) {
                s->waiting_last = before;
            }
            s->lanes[s->tasks[at].lane].waiting -= 1;
            return true;
        }
        before = at;
    }
    return false;
}

enum Withdrawn : u32 { WITHDRAWN_NOT, WITHDRAWN_RUNS, WITHDRAWN_OVER };

// Takes back what has not started of the task; if nothing of it runs, it is the caller's to end.
DEVICE u32 withdraw_task(State *s, u32 index) {
    Task *task = s->tasks + index;
    if (unlink_waiting(s, index)) {
        return WITHDRAWN_OVER;
    }
    const u32 tiles = withdraw_tiles(task);
    if (tiles == 0) {
        return WITHDRAWN_NOT;
    }
    give_verdict(task, CANCELLED, 0);
    return finish_tiles(task, tiles) ? WITHDRAWN_OVER : WITHDRAWN_RUNS;
}

DEVICE u32 cancel(const Block &b, const u32 *body) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    const u64 ticket = join(body[0], body[1]);
    if (is_leader()) {
        const u32 index = s->task_of_permit[ticket & (s->tickets - 1)];
        scratch->task = index;
        scratch->flag = s->tasks[index].ticket == ticket ? withdraw_task(s, index) : (u32)WITHDRAWN_NOT;
    }
    sync_warp();
    const u32 done = scratch->flag;
    const u32 index = scratch->task;
    sync_warp();
    if (done == WITHDRAWN_OVER) {
        conclude(b, index, CANCELLED, 0);
    }
    return done == WITHDRAWN_NOT ? layout::REPLY_UNKNOWN : layout::REPLY_DONE;
}

DEVICE void stop(const Block &b) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    if (is_leader()) {
        s->stopping = 1;
    }
    for (u32 index = 0; index < s->tasks_count; ++index) {
        if (is_leader()) {
            scratch->flag = withdraw_task(s, index);
        }
        sync_warp();
        const bool over = scratch->flag == WITHDRAWN_OVER;
        sync_warp();
        if (over) {
            conclude(b, index, CANCELLED, 0);
        }
    }
}

// By the first warp: carries out the order in the scratch.
DEVICE void obey(const Block &b) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    const u32 *body = scratch->order + layout::CONTROL_BODY;
    const u64 number = join(scratch->order[layout::CONTROL_ORDER_LOW],
                            scratch->order[layout::CONTROL_ORDER_HIGH]);
    const u32 command = scratch->order[layout::CONTROL_COMMAND];
    if (is_leader()) {
        s->ordered += 1;
        s->order_after = 0;
    }
    sync_warp();
    u32 reply = LATER;
    if (command == layout::COMMAND_CANCEL) {
        reply = cancel(b, body);
    } else if (command == layout::COMMAND_STOP) {
        stop(b);
        reply = layout::REPLY_DONE;
    } else {
        if (is_leader()) {
            u32 said = layout::REPLY_MALFORMED;
            switch (command) {
            case layout::COMMAND_MAP:
                said = map_window(s, body);
                break;
            case layout::COMMAND_UNMAP:
                said = unmap_window(s, body);
                break;
            case layout::COMMAND_SET_TENANT:
                said = set_tenant(s, body);
                break;
            case layout::COMMAND_CLEAR_TENANT:
                said = clear_tenant(s, body);
                break;
            case layout::COMMAND_DRAIN:
                said = LATER;
                break;
            default:
                break;
            }
            if (said == LATER) {
                // The control ring holds no more unanswered orders than there are places.
                Deferred *later = s->deferred + s->deferred_count;
                later->number = number;
                later->command = command;
                later->slot = body[0];
                s->deferred_count += 1;
            }
            scratch->flag = said;
        }
        sync_warp();
        reply = scratch->flag;
        sync_warp();
    }
    if (reply != LATER) {
        post_reply(b, number, reply);
    }
}

DEVICE bool is_settled(State *s, const Deferred *order) {
    if (order->command == layout::COMMAND_DRAIN) {
        return ld_relaxed_gpu(&s->active) == 0;
    }
    if (ld_relaxed_gpu(&s->windows[order->slot].pins) != 0) {
        return false;
    }
    s->windows[order->slot].is_mapped = 0;
    return true;
}

// By the first warp: answers the orders that waited and need no longer.
DEVICE void settle_deferred(const Block &b) {
    State *s = b.state;
    Scratch *scratch = b.scratch;
    u32 at = 0;
    // Read by every lane before the first one changes it.
    u32 count = s->deferred_count;
    sync_warp();
    while (at < count) {
        if (is_leader()) {
            Deferred *order = s->deferred + at;
            scratch->flag = is_settled(s, order);
            if (scratch->flag != 0) {
                // Whoever used the window, or completed last, is done with it.
                fence_gpu();
                scratch->position = order->number;
                s->deferred_count -= 1;
                *order = s->deferred[s->deferred_count];
            }
        }
        sync_warp();
        const bool settled = scratch->flag != 0;
        const u64 number = scratch->position;
        sync_warp();
        if (settled) {
            post_reply(b, number, layout::REPLY_DONE);
            count -= 1;
        } else {
            at += 1;
        }
    }
}

} // namespace orlop
