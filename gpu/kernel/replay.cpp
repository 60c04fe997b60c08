// Replay: a peer that plays a script of entries and orders against the kernel, badly: words of a slot
// come late and in any order, slots are damaged and mended, work is cancelled, kernels are replaced.
//
// The script is written by the Rust side (`script.rs`), and so is what each entry is to end with.
// Arguments: the script, the first seed, how many seeds.
#include "launch.h"

#include <cstdarg>
#include <sys/mman.h>

namespace layout = orlop::layout;

struct Record {
    u32 is_order;
    u32 slots;
    // Of an order the reply, of an entry the status.
    u32 expected;
    u32 code;
    u32 length;
    u32 may_expire;
    // One more than the record that must be over when this one is; zero is none.
    u32 follows;
    const u32 *words;
    const u8 *result;
};

struct Script {
    u32 entry_slots, tickets, result_bytes, blocks, epoch;
    orlop::Limits limits;
    u64 arena_bytes;
    std::vector<u32> words;
    const u32 *content;
    u32 content_words;
    std::vector<orlop::UserOp> ops;
    std::vector<Record> records;
};

struct Totals {
    u64 ops, slots, switches, launches, damaged, cancelled, stopped, results;
};

[[noreturn]] static void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "replay: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    fflush(stderr);
    _exit(3);
}

static Script read_script(const char *path) {
    Script script;
    FILE *file = fopen(path, "rb");
    if (file == nullptr) {
        fail("no script at %s", path);
    }
    u32 word;
    while (fread(&word, 4, 1, file) == 1) {
        script.words.push_back(word);
    }
    fclose(file);
    const u32 *at = script.words.data();
    script.entry_slots = *at++;
    script.tickets = *at++;
    script.result_bytes = *at++;
    script.blocks = *at++;
    script.epoch = *at++;
    script.limits = orlop::Limits{at[0], at[1], at[2], at[3]};
    at += 4;
    script.arena_bytes = *at++;
    const u32 ops = *at++;
    for (u32 op = 0; op < ops; ++op, at += 4) {
        script.ops.push_back(orlop::UserOp{at[0], orlop::KIND_TEST, at[1], at[2], at[3]});
    }
    script.content_words = *at++;
    script.content = at;
    at += script.content_words;
    const u32 records = *at++;
    for (u32 index = 0; index < records; ++index) {
        Record record{at[0], at[1], at[2], at[3], at[4], at[5], at[6], at + 7, nullptr};
        at += 7 + record.slots * layout::SLOT_WORDS;
        record.result = reinterpret_cast<const u8 *>(at);
        at += (record.length + 3) / 4;
        script.records.push_back(record);
    }
    if (at != script.words.data() + script.words.size()) {
        fail("the script has another form");
    }
    return script;
}

struct Flight {
    u32 record;
    u32 slots;
    u64 ticket;
    bool is_open;
    bool cancel_done;
};

class Peer {
  public:
    Peer(const Script &script, u64 seed, u8 *shared, Totals *totals)
        : script_(script), shared_(shared), totals_(totals), flights_(script.tickets) {
        orders_waiting_.assign(layout::CONTROL_SLOTS * 4, ~0U);
        stops_early_ = seed % 3 == 0;
        stop_at_ = stops_early_ ? (u32)shim::draw(script.records.size()) : ~0U;
        careless_ = seed % 2 == 0;
    }

    void play() {
        start();
        for (u32 index = 0; index < script_.records.size() && index < stop_at_; ++index) {
            const Record &record = script_.records[index];
            if (index == 1) {
                // While the kernel runs, and before it is told of any window.
                memcpy(host::kernel.arena, script_.content, script_.content_words * 4ULL);
            }
            if (record.is_order != 0) {
                const u64 number = give(record.words);
                const u32 next = index + 1;
                const bool leaves = record.words[layout::CONTROL_COMMAND] == layout::COMMAND_UNMAP &&
                                    record.expected == layout::REPLY_DONE;
                // What names a window that is leaving comes too late, pinned or not.
                if (leaves && next < script_.records.size() && script_.records[next].is_order == 0) {
                    while (obeyed() <= number) {
                        idle();
                    }
                    publish(next);
                    index = next;
                }
                expect_reply(number, record.expected, index);
                if (record.expected == layout::REPLY_DONE) {
                    follow(record.words);
                }
            } else {
                publish(index);
            }
            if (shim::draw(8) == 0) {
                replace();
            }
            if (shim::draw(4) == 0) {
                cancel_any();
            }
        }
        if (!stops_early_) {
            u32 drain[16] = {layout::COMMAND_DRAIN};
            const u64 number = give(drain);
            wait_reply(number);
            // A drain says that everything before it was told; it need not be looked for.
            while (poll()) {
            }
            if (open_ != 0) {
                fail("a drain replied over %u that are open", open_);
            }
        }
        u32 stop[16] = {layout::COMMAND_STOP};
        stopping_ = true;
        wait_reply(give(stop));
        while (open_ > 0) {
            idle();
        }
        while (!host::is_over()) {
            idle();
        }
        check_tables();
    }

  private:
    void start() {
        totals_->launches += 1;
        set_generation(++generation_);
        host::launch(script_.blocks, generation_);
    }

    // Orders that the dispatcher has carried out, or put off. Its own word, so nobody is told of it.
    UNSEEN static u64 obeyed() { return __atomic_load_n(&host::kernel.state->ordered, __ATOMIC_RELAXED); }

    // A window that was given back is the peer's again: whoever still reads it, reads rubbish.
    void follow(const u32 *words) {
        const u32 *body = words + layout::CONTROL_BODY;
        if (words[layout::CONTROL_COMMAND] == layout::COMMAND_MAP) {
            places_[body[0] % 16] = orlop::join(body[2], body[3]);
            lengths_[body[0] % 16] = orlop::join(body[4], body[5]);
        }
        if (words[layout::CONTROL_COMMAND] == layout::COMMAND_UNMAP) {
            u8 *bytes = host::kernel.arena + places_[body[0] % 16];
            const u64 length = lengths_[body[0] % 16];
            memset(bytes, 0xee, length);
            for (u32 turn = 0; turn < 50; ++turn) {
                idle();
            }
            const u8 *content = reinterpret_cast<const u8 *>(script_.content);
            memcpy(bytes, content + places_[body[0] % 16], length);
        }
    }

    void set_generation(u64 generation) {
        orlop::Slot *header = reinterpret_cast<orlop::Slot *>(shared_) + 1;
        orlop::st_relaxed_sys(header->words + layout::HEADER_GENERATION, generation);
    }

    // The next generation goes on where this one stops.
    void replace() {
        set_generation(generation_ + 1);
        while (!host::is_over()) {
            idle();
        }
        start();
    }

    orlop::Ring ring(u64 at, u32 shift) {
        return orlop::Ring{reinterpret_cast<orlop::Slot *>(shared_ + at), shift};
    }
    orlop::Ring entries() { return ring(host::kernel.state->entries_at, host::kernel.state->entry_shift); }
    orlop::Ring completions() {
        return ring(host::kernel.state->completions_at, host::kernel.state->entry_shift);
    }
    orlop::Ring control() { return ring(host::kernel.state->control_at, host::kernel.state->control_shift); }
    orlop::Ring replies() {
        return ring(host::kernel.state->control_done_at, host::kernel.state->control_shift);
    }

    void idle() {
        shim::rest();
        poll();
        if (++idle_ > 3000000) {
            fail("nothing moves: %u open, record %u", open_, written_);
        }
    }

    // A word at a time, in any order, with anything in between.
    void put(const orlop::Ring &ring, u64 position, const u32 *words) {
        orlop::Slot *slot = orlop::slot_at(ring, position);
        const u32 sequence = orlop::sequence_of(position, ring.shift);
        u32 order[16];
        for (u32 at = 0; at < 16; ++at) {
            order[at] = at;
        }
        for (u32 at = 15; at > 0; --at) {
            const u32 other = (u32)shim::draw(at + 1);
            const u32 kept = order[at];
            order[at] = order[other];
            order[other] = kept;
        }
        totals_->slots += 1;
        shim::fence();
        const bool damages = shim::draw(16) == 0;
        for (u32 at = 0; at < 16; ++at) {
            const u32 word = order[at];
            if (damages && at == 15) {
                // All but one word are there; that one is of no lap, or of another.
                const u32 wrong = shim::draw(2) == 0 ? 0 : sequence ^ (1U << shim::draw(32));
                orlop::st_relaxed_sys(slot->words + word, orlop::join((u32)shim::draw(~0U), wrong));
                totals_->damaged += 1;
                for (u32 turn = (u32)shim::draw(300); turn > 0; --turn) {
                    idle();
                }
                shim::fence();
            }
            orlop::st_relaxed_sys(slot->words + word, orlop::join(words[word], sequence));
            if (careless_ && shim::draw(8) == 0) {
                idle();
                shim::fence();
            }
        }
    }

    u64 give(const u32 *words) {
        while (ordered_ - replied_ >= layout::CONTROL_SLOTS) {
            idle();
        }
        u32 order[16];
        memcpy(order, words, sizeof order);
        order[layout::CONTROL_ORDER_LOW] = orlop::low(ordered_);
        order[layout::CONTROL_ORDER_HIGH] = orlop::high(ordered_);
        orders_waiting_[ordered_ % orders_waiting_.size()] = ~0U;
        put(control(), ordered_, order);
        return ordered_++;
    }

    u32 wait_reply(u64 number) {
        while (orders_waiting_[number % orders_waiting_.size()] == ~0U) {
            idle();
        }
        return orders_waiting_[number % orders_waiting_.size()];
    }

    void expect_reply(u64 number, u32 expected, u32 index) {
        const u32 reply = wait_reply(number);
        if (reply != expected) {
            fail("record %u: reply %u, expected %u", index, reply, expected);
        }
    }

    void publish(u32 index) {
        const Record &record = script_.records[index];
        const u64 ticket = orlop::ticket_of(record.words);
        Flight &flight = flights_[ticket & (script_.tickets - 1)];
        const u64 end = orlop::until_end(entries(), position_);
        const u32 pad = record.slots > end ? (u32)end : 0;
        while (flight.is_open || in_flight_ + record.slots + pad > script_.entry_slots) {
            idle();
        }
        flight = Flight{index, record.slots + pad, ticket, true, false};
        in_flight_ += record.slots + pad;
        open_ += 1;
        written_ = index;
        if (pad > 0) {
            u32 words[16] = {layout::OPCODE_PAD, pad};
            put_entry(words, 1);
            u32 nothing[16] = {};
            for (u32 at = 1; at < pad; ++at) {
                put_entry(nothing, 1);
            }
        }
        put_entry(record.words, record.slots);
    }

    // Slots in any order, too.
    void put_entry(const u32 *words, u32 slots) {
        const u32 first = (u32)shim::draw(slots);
        for (u32 at = 0; at < slots; ++at) {
            const u32 slot = (first + at) % slots;
            put(entries(), position_ + slot, words + slot * layout::SLOT_WORDS);
        }
        position_ += slots;
    }

    void cancel_any() {
        Flight &flight = flights_[shim::draw(script_.tickets)];
        if (!flight.is_open) {
            return;
        }
        const u64 ticket = flight.ticket;
        u32 cancel[16] = {layout::COMMAND_CANCEL, 0, 0, orlop::low(ticket), orlop::high(ticket)};
        // Remembered by the number: the reply may come before or after the completion.
        cancels_.push_back({ordered_, ticket, false});
        give(cancel);
    }

    bool take(const orlop::Ring &ring, u64 position, u32 *words) {
        const orlop::Slot *slot = orlop::slot_at(ring, position);
        const u32 sequence = orlop::sequence_of(position, ring.shift);
        for (u32 at = 0; at < 16; ++at) {
            const u64 raw = orlop::ld_relaxed_sys(slot->words + at);
            if (orlop::high(raw) != sequence) {
                return false;
            }
            words[at] = orlop::low(raw);
        }
        shim::fence();
        return true;
    }

    bool poll() {
        u32 words[16];
        bool found = false;
        if (take(completions(), completed_, words)) {
            completed_ += 1;
            settle(words);
            found = true;
        }
        if (take(replies(), replied_, words)) {
            replied_ += 1;
            const u64 number = orlop::join(words[1], words[2]);
            if (number >= ordered_ || orders_waiting_[number % orders_waiting_.size()] != ~0U) {
                fail("a reply to order %llu, which waits for none", number);
            }
            orders_waiting_[number % orders_waiting_.size()] = words[0];
            replied(number, words[0]);
            found = true;
        }
        return found;
    }

    struct CancelGiven {
        u64 number;
        u64 ticket;
        bool was_cancelled;
    };

    // A cancel that was carried out and a completion that says so come together, in either order.
    void replied(u64 number, u32 reply) {
        for (CancelGiven &cancel : cancels_) {
            if (cancel.number != number) {
                continue;
            }
            Flight &flight = flights_[cancel.ticket & (script_.tickets - 1)];
            if (flight.is_open && flight.ticket == cancel.ticket) {
                flight.cancel_done = flight.cancel_done || reply == layout::REPLY_DONE;
            }
            cancel.ticket = ~0ULL;
        }
    }

    void settle(const u32 *words) {
        idle_ = 0;
        const u64 ticket = orlop::join(words[layout::COMPLETION_TICKET_LOW],
                                       words[layout::COMPLETION_TICKET_HIGH]);
        Flight &flight = flights_[ticket & (script_.tickets - 1)];
        if (!flight.is_open || flight.ticket != ticket) {
            fail("a completion of ticket %llx, which is not open", ticket);
        }
        const Record &record = script_.records[flight.record];
        const u32 status = words[layout::COMPLETION_STATUS];
        bool asked = stopping_ || flight.cancel_done;
        for (const CancelGiven &cancel : cancels_) {
            asked = asked || cancel.ticket == ticket;
        }
        const bool ended_early = (status == orlop::CANCELLED && asked) ||
                                 (status == orlop::EXPIRED && record.may_expire != 0);
        if (!ended_early) {
            compare(record, flight, words);
        }
        if (flight.cancel_done && record.expected == orlop::DONE && record.may_expire == 0 &&
            status != orlop::CANCELLED) {
            fail("record %u was cancelled and has status %u", flight.record, status);
        }
        if (record.follows != 0 && is_open(record.follows - 1)) {
            fail("record %u is over, and record %u before it is not", flight.record, record.follows - 1);
        }
        totals_->cancelled += ended_early ? 1 : 0;
        totals_->ops += 1;
        flight.is_open = false;
        in_flight_ -= flight.slots;
        open_ -= 1;
    }

    bool is_open(u32 record) const {
        const u64 ticket = orlop::ticket_of(script_.records[record].words);
        const Flight &flight = flights_[ticket & (script_.tickets - 1)];
        return flight.is_open && flight.ticket == ticket;
    }

    void compare(const Record &record, const Flight &flight, const u32 *words) {
        const u32 status = words[layout::COMPLETION_STATUS];
        const u32 *inside = words + layout::COMPLETION_INLINE;
        if (status != record.expected) {
            fail("record %u: status %u, expected %u (code %x)", flight.record, status, record.expected,
                 inside[0]);
        }
        if (status != orlop::DONE) {
            if (inside[0] != record.code) {
                fail("record %u: code %x, expected %x", flight.record, inside[0], record.code);
            }
            return;
        }
        const u64 length = orlop::join(words[layout::COMPLETION_LENGTH_LOW],
                                       words[layout::COMPLETION_LENGTH_HIGH]);
        const u64 area = (flight.ticket & (script_.tickets - 1)) * script_.result_bytes;
        const u8 *bytes = length <= layout::INLINE_BYTES
                              ? reinterpret_cast<const u8 *>(inside)
                              : shared_ + host::kernel.state->results_at + area;
        if (length != record.length || memcmp(bytes, record.result, record.length) != 0) {
            fail("record %u: another result of %llu bytes", flight.record, length);
        }
        totals_->results += 1;
    }

    // What was taken was given back, whatever happened in between.
    void check_tables() {
        shim::fence();
        const orlop::State *s = host::kernel.state;
        u64 left = s->active + s->deferred_count;
        for (const orlop::Lane &lane : s->lanes) {
            left += lane.live + lane.waiting;
        }
        for (u32 slot = 0; slot < s->limits.buffer_slots; ++slot) {
            left += s->windows[slot].pins;
        }
        for (u32 word = 0; word < s->limits.pool_pages / 64; ++word) {
            left += ~s->page_bits[word];
        }
        if (left != 0 || s->free_tail - s->free_head != s->tasks_count) {
            fail("something is still held at the end");
        }
        if (s->fetched != position_ || s->ordered != ordered_) {
            fail("something was not read");
        }
        for (u32 worker = 0; worker < script_.blocks; ++worker) {
            const u64 *beat = reinterpret_cast<const orlop::Slot *>(shared_ + s->workers_at)
                                  [worker * layout::WORKER_SLOTS].words;
            for (u32 word = 0; word < 16; ++word) {
                if (orlop::low(beat[word]) != 0 || orlop::high(beat[word]) != orlop::high(beat[0])) {
                    fail("worker %u says at the end that it runs something", worker);
                }
            }
        }
    }

    const Script &script_;
    u8 *shared_;
    Totals *totals_;
    std::vector<Flight> flights_;
    std::vector<u32> orders_waiting_;
    std::vector<CancelGiven> cancels_;
    u64 places_[16] = {};
    u64 lengths_[16] = {};
    u64 generation_ = 0;
    u64 position_ = 0;
    u64 completed_ = 0;
    u64 ordered_ = 0;
    u64 replied_ = 0;
    u64 in_flight_ = 0;
    u64 idle_ = 0;
    u32 open_ = 0;
    u32 written_ = 0;
    u32 stop_at_ = ~0U;
    bool stops_early_ = false;
    bool stopping_ = false;
    bool careless_ = false;
};

static void run_seed(const Script &script, u64 seed, Totals *totals) {
    const u32 chances[] = {6, 40, 140};
    host::become_host(seed, chances[seed % 3]);
    u64 bytes = layout::PAGE_BYTES;
    const u64 ring = (u64)script.entry_slots * layout::SLOT_BYTES;
    const u64 sizes[] = {ring, ring, 8192, 8192, script.blocks * 256ULL,
                         (u64)script.tickets * script.result_bytes, script.arena_bytes};
    for (const u64 size : sizes) {
        bytes = orlop::align_up(bytes + size, layout::PAGE_BYTES);
    }
    void *memory = nullptr;
    if (posix_memalign(&memory, 4096, bytes) != 0) {
        fail("no memory");
    }
    memset(memory, 0, bytes);
    u8 *shared = static_cast<u8 *>(memory);
    u64 *header = reinterpret_cast<orlop::Slot *>(shared)->words;
    header[layout::HEADER_MAGIC] = layout::MAGIC;
    header[layout::HEADER_VERSION] = layout::VERSION;
    header[layout::HEADER_ENTRY_SLOTS] = script.entry_slots;
    header[layout::HEADER_CONTROL_SLOTS] = layout::CONTROL_SLOTS;
    header[layout::HEADER_TICKETS] = script.tickets;
    header[layout::HEADER_RESULT_BYTES] = script.result_bytes;
    header[layout::HEADER_WORKERS] = script.blocks;
    header[layout::HEADER_ARENA_BYTES] = script.arena_bytes;
    if (!host::set_up(shared, script.entry_slots, script.tickets, script.blocks, script.limits) ||
        host::kernel.state->total != bytes) {
        fail("the layout differs");
    }
    for (const orlop::UserOp &op : script.ops) {
        host::kernel.state->user_ops[host::kernel.state->user_ops_count++] = op;
    }
    Peer(script, seed, shared, totals).play();
    host::tear_down();
    free(memory);
}

int main(int count, char **words) {
    if (count != 4) {
        return 2;
    }
    shim::virtual_time = true;
    const Script script = read_script(words[1]);
    const u64 first = strtoull(words[2], nullptr, 10);
    const u64 seeds = strtoull(words[3], nullptr, 10);
    Totals totals{};
    for (u64 seed = first; seed < first + seeds; ++seed) {
        run_seed(script, seed, &totals);
    }
    printf("interleavings %llu ops %llu results %llu slots %llu switches %llu launches %llu damaged %llu "
           "ended-early %llu\n",
           seeds, totals.ops, totals.results, totals.slots, shim::machine.switches, totals.launches,
           totals.damaged, totals.cancelled);
    return 0;
}
