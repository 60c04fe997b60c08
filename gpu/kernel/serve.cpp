// Serve: the kernel over the shared memory of another process, which is its standard input.
//
// Arguments: blocks, buffer slots, tenant slots, tiles, pages, seed. Ends when it was told to stop.
#include "launch.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <csignal>

static u64 header_word(const u8 *shared, u32 slot, u32 word) {
    return orlop::ld_relaxed_sys(reinterpret_cast<const orlop::Slot *>(shared)[slot].words + word);
}

int main(int count, char **words) {
    if (count != 7) {
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const u32 blocks = (u32)atoi(words[1]);
    const orlop::Limits limits{(u32)atoi(words[2]), (u32)atoi(words[3]), (u32)atoi(words[4]),
                               (u32)atoi(words[5])};
    struct stat about;
    if (fstat(0, &about) != 0) {
        return 2;
    }
    void *memory = mmap(nullptr, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, 0, 0);
    if (memory == MAP_FAILED) {
        return 2;
    }
    u8 *shared = static_cast<u8 *>(memory);
    host::become_host((u64)atoi(words[6]), 24);
    shim::machine.sleeps = true;
    const u32 entry_slots = (u32)header_word(shared, 0, orlop::layout::HEADER_ENTRY_SLOTS);
    const u32 tickets = (u32)header_word(shared, 0, orlop::layout::HEADER_TICKETS);
    if (!host::set_up(shared, entry_slots, tickets, blocks, limits) ||
        host::kernel.state->total != (u64)about.st_size) {
        fprintf(stderr, "the layout differs\n");
        return 4;
    }
    u64 launches = 0;
    for (;;) {
        if (!host::is_over()) {
            shim::rest();
            continue;
        }
        shim::fence();
        if (host::kernel.state->stopping != 0) {
            break;
        }
        const u64 generation = header_word(shared, 1, orlop::layout::HEADER_GENERATION);
        if (generation != 0) {
            launches += 1;
            host::launch(blocks, generation);
        }
    }
    printf("launches %llu switches %llu fetched %llu\n", launches, shim::machine.switches,
           host::kernel.state->fetched);
    return 0;
}
