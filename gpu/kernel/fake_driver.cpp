// Fake driver: the functions of libcuda that are called, over the kernel on the shim.
//
// Built as a shared library and put before the loader in place of the real one. One thread is the
// chip: it runs what is in the streams, in order, and the fibers of a launched grid. "Device memory"
// is memory of the process.
//
// What it is told, by the environment:
//   ORLOP_FAKE_VERSION, _DEVICES, _CAPABILITY, _COOPERATIVE, _LAZY, _FREE  what it says of itself
//   ORLOP_FAKE_FAIL=FUNCTION:CODE[:N]  the N-th call of a function (from 1, the first) says CODE;
//                                      from 700 on that is for good, as it is on a device
//   ORLOP_FAKE_FAULT=CODE:N            the chip faults when the kernel has fetched N slots
//   ORLOP_FAKE_HANG=N                  the chip stands still when the kernel has fetched N slots
//   ORLOP_FAKE_SEED                    of the interleaving
//   ORLOP_FAKE_REPORT=FILE             what was not given back, and what was called, at the end
#include "launch.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace fake {

using Code = unsigned int;
constexpr Code INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
               INVALID_IMAGE = 200, INVALID_CONTEXT = 201, ALREADY_REGISTERED = 712,
               NOT_REGISTERED = 713, NOT_FOUND = 500, NOT_READY = 600, TOO_LARGE = 720;
constexpr int MULTIPROCESSORS = 8;

long number(const char *name, long otherwise) {
    const char *said = getenv(name);
    return said == nullptr ? otherwise : strtol(said, nullptr, 0);
}

constexpr u64 STATE_BYTES = 1, SET_UP = 2, MEGAKERNEL = 3;

struct Launch {
    u64 function;
    u32 blocks;
    u64 words[4];
    u32 small[3];
    orlop::Limits limits;
};

struct Driver {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<Launch> queue;
    bool runs = false;
    std::atomic<Code> sticky{0};
    std::thread chip;
    bool has_chip = false;
    bool ends = false;
    bool is_initialised = false;
    int retained = 0;
    std::map<void *, size_t> registered;
    std::map<u64, size_t> allocated;
    std::set<void *> streams, modules;
    std::map<std::string, long> calls;
    u64 launches = 0;
    u64 fetched = 0;
};

// Never destroyed: the chip's thread outlives what ends with the process.
Driver &driver() {
    static Driver *one = new Driver;
    return *one;
}

thread_local void *current = nullptr;

void report() {
    const char *file = getenv("ORLOP_FAKE_REPORT");
    if (file == nullptr) {
        return;
    }
    Driver &d = driver();
    std::lock_guard<std::mutex> held(d.lock);
    FILE *out = fopen(file, "w");
    if (out == nullptr) {
        return;
    }
    fprintf(out, "contexts %d\nregistered %zu\nallocated %zu\nstreams %zu\nmodules %zu\n", d.retained,
            d.registered.size(), d.allocated.size(), d.streams.size(), d.modules.size());
    fprintf(out, "launches %llu\nfetched %llu\n", d.launches, d.fetched);
    for (const auto &call : d.calls) {
        fprintf(out, "call.%s %ld\n", call.first.c_str(), call.second);
    }
    fclose(out);
}

// What a call of this function is to say before it does anything: a planted code, or that of a
// fault that was before.
Code planted(const char *function) {
    Driver &d = driver();
    std::lock_guard<std::mutex> held(d.lock);
    const long calls = ++d.calls[function];
    if (calls == 1 && d.calls.size() == 1) {
        atexit(report);
    }
    if (d.sticky != 0) {
        return d.sticky;
    }
    const char *said = getenv("ORLOP_FAKE_FAIL");
    if (said == nullptr) {
        return 0;
    }
    const std::string plan = said;
    const size_t colon = plan.find(':');
    if (plan.substr(0, colon) != function) {
        return 0;
    }
    char *rest = nullptr;
    const Code code = (Code)strtoul(plan.c_str() + colon + 1, &rest, 10);
    const long at = *rest == ':' ? strtol(rest + 1, nullptr, 10) : 1;
    if (calls != at) {
        return 0;
    }
    if (code >= 700) {
        d.sticky = code;
        d.changed.notify_all();
    }
    return code;
}

// A kernel that was launched, until it is over, faults or stands still.
void run_megakernel(const Launch &launch) {
    static std::string fault = getenv("ORLOP_FAKE_FAULT") == nullptr ? "" : getenv("ORLOP_FAKE_FAULT");
    const long fault_at = fault.empty() ? -1 : atol(fault.c_str() + fault.find(':') + 1);
    const long hang_at = number("ORLOP_FAKE_HANG", -1);
    Driver &d = driver();
    host::kernel.shared = reinterpret_cast<u8 *>(launch.words[0]);
    host::kernel.arena = reinterpret_cast<u8 *>(launch.words[1]);
    host::kernel.state = reinterpret_cast<orlop::State *>(launch.words[2]);
    host::launch(launch.blocks, launch.words[3]);
    while (!host::is_over() && d.sticky == 0) {
        const long fetched = (long)host::kernel.state->fetched;
        if (fault_at >= 0 && fetched >= fault_at) {
            std::lock_guard<std::mutex> held(d.lock);
            d.sticky = (Code)atol(fault.c_str());
            break;
        }
        if (hang_at >= 0 && fetched >= hang_at) {
            std::unique_lock<std::mutex> held(d.lock);
            d.changed.wait(held, [] { return false; });
        }
        shim::rest();
    }
    std::lock_guard<std::mutex> held(d.lock);
    d.fetched = d.sticky == 0 ? host::kernel.state->fetched : d.fetched;
}

void run(const Launch &launch) {
    u64 *words = const_cast<u64 *>(launch.words);
    if (launch.function == STATE_BYTES) {
        *reinterpret_cast<u64 *>(words[0]) = orlop::place_tables(
            nullptr, launch.small[0], launch.small[1], launch.small[2], launch.limits);
    } else if (launch.function == SET_UP) {
        orlop::State *state = reinterpret_cast<orlop::State *>(words[1]);
        u32 *done = reinterpret_cast<u32 *>(words[2]);
        *done = orlop::set_up(reinterpret_cast<u8 *>(words[0]), state, launch.limits) ? 1 : 0;
    } else {
        run_megakernel(launch);
    }
}

void chip() {
    Driver &d = driver();
    host::become_host((u64)number("ORLOP_FAKE_SEED", 1), 24);
    shim::machine.sleeps = true;
    host::kernel.scratch = static_cast<orlop::Scratch *>(calloc(MULTIPROCESSORS, sizeof(orlop::Scratch)));
    memset(static_cast<void *>(host::kernel.scratch), 0xa5, sizeof(orlop::Scratch) * MULTIPROCESSORS);
    std::unique_lock<std::mutex> held(d.lock);
    for (;;) {
        d.changed.wait(held, [&] { return !d.queue.empty() && d.sticky == 0; });
        const Launch launch = d.queue.front();
        d.queue.pop_front();
        d.runs = true;
        held.unlock();
        run(launch);
        held.lock();
        d.runs = false;
        d.changed.notify_all();
    }
}

Code enqueue(const Launch &launch) {
    Driver &d = driver();
    std::lock_guard<std::mutex> held(d.lock);
    if (!d.has_chip) {
        d.has_chip = true;
        d.chip = std::thread(chip);
        d.chip.detach();
    }
    d.queue.push_back(launch);
    d.changed.notify_all();
    return 0;
}

// Waits for the streams; what faulted, or zero.
Code wait() {
    Driver &d = driver();
    std::unique_lock<std::mutex> held(d.lock);
    d.changed.wait(held, [&] { return d.sticky != 0 || (d.queue.empty() && !d.runs); });
    return d.sticky;
}

bool is_ours(u64 at, size_t bytes) {
    Driver &d = driver();
    for (const auto &block : d.allocated) {
        if (block.first <= at && at + bytes <= block.first + block.second) {
            return true;
        }
    }
    return false;
}

int attribute(int which) {
    switch (which) {
    case 16:
        return MULTIPROCESSORS;
    case 19:
        return 1;
    case 75:
        return (int)number("ORLOP_FAKE_CAPABILITY", 90) / 10;
    case 76:
        return (int)number("ORLOP_FAKE_CAPABILITY", 90) % 10;
    case 95:
        return (int)number("ORLOP_FAKE_COOPERATIVE", 1);
    default:
        return 0;
    }
}

} // namespace fake

using fake::Code;
using fake::driver;

// Whatever is planted comes first.
#define CALL(name)                                                                                     \
    do {                                                                                               \
        if (const Code code = fake::planted(name)) {                                                   \
            return code;                                                                               \
        }                                                                                              \
    } while (false)
// And then that a context is current on the calling thread.
#define IN_CONTEXT(name)                                                                               \
    CALL(name);                                                                                        \
    if (fake::current == nullptr) {                                                                    \
        return fake::INVALID_CONTEXT;                                                                  \
    }                                                                                                  \
    std::lock_guard<std::mutex> held(driver().lock)

extern "C" {

Code cuInit(unsigned) {
    CALL("cuInit");
    driver().is_initialised = true;
    return 0;
}

Code cuDriverGetVersion(int *version) {
    CALL("cuDriverGetVersion");
    *version = (int)fake::number("ORLOP_FAKE_VERSION", 13000);
    return 0;
}

Code cuDeviceGetCount(int *count) {
    CALL("cuDeviceGetCount");
    *count = (int)fake::number("ORLOP_FAKE_DEVICES", 1);
    return driver().is_initialised ? 0 : fake::NOT_INITIALIZED;
}

Code cuDeviceGet(int *device, int ordinal) {
    CALL("cuDeviceGet");
    *device = ordinal + 40;
    return ordinal < fake::number("ORLOP_FAKE_DEVICES", 1) ? 0 : fake::INVALID_DEVICE;
}

Code cuDeviceGetName(char *name, int length, int) {
    CALL("cuDeviceGetName");
    snprintf(name, (size_t)length, "Shim");
    return 0;
}

Code cuDeviceTotalMem_v2(size_t *bytes, int) {
    CALL("cuDeviceTotalMem");
    *bytes = 1ULL << 30;
    return 0;
}

Code cuDeviceGetAttribute(int *value, int which, int) {
    CALL("cuDeviceGetAttribute");
    *value = fake::attribute(which);
    return 0;
}

Code cuGetErrorName(Code code, const char **name) {
    *name = code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_PLANTED";
    return code < 990 ? 0 : fake::INVALID_VALUE;
}

Code cuDevicePrimaryCtxRetain(void **context, int device) {
    CALL("cuDevicePrimaryCtxRetain");
    std::lock_guard<std::mutex> held(driver().lock);
    driver().retained += 1;
    *context = reinterpret_cast<void *>((u64)device);
    return 0;
}

Code cuDevicePrimaryCtxRelease_v2(int) {
    CALL("cuDevicePrimaryCtxRelease");
    std::lock_guard<std::mutex> held(driver().lock);
    driver().retained -= 1;
    return 0;
}

Code cuCtxSetCurrent(void *context) {
    CALL("cuCtxSetCurrent");
    fake::current = context;
    return 0;
}

Code cuMemGetInfo_v2(size_t *free, size_t *total) {
    IN_CONTEXT("cuMemGetInfo");
    *free = (size_t)fake::number("ORLOP_FAKE_FREE", 1L << 30);
    *total = 1ULL << 30;
    return 0;
}

Code cuMemHostRegister_v2(void *base, size_t bytes, unsigned flags) {
    IN_CONTEXT("cuMemHostRegister");
    if (flags != 3) {
        return fake::INVALID_VALUE;
    }
    return driver().registered.emplace(base, bytes).second ? 0 : fake::ALREADY_REGISTERED;
}

Code cuMemHostUnregister(void *base) {
    IN_CONTEXT("cuMemHostUnregister");
    return driver().registered.erase(base) == 1 ? 0 : fake::NOT_REGISTERED;
}

Code cuMemHostGetDevicePointer_v2(u64 *pointer, void *base, unsigned) {
    IN_CONTEXT("cuMemHostGetDevicePointer");
    *pointer = reinterpret_cast<u64>(base);
    return driver().registered.count(base) == 1 ? 0 : fake::NOT_REGISTERED;
}

Code cuMemAlloc_v2(u64 *pointer, size_t bytes) {
    IN_CONTEXT("cuMemAlloc");
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) {
        return fake::OUT_OF_MEMORY;
    }
    // As on a device: not zero.
    memset(memory, 0x5a, bytes);
    *pointer = reinterpret_cast<u64>(memory);
    driver().allocated[*pointer] = bytes;
    return 0;
}

Code cuMemFree_v2(u64 pointer) {
    IN_CONTEXT("cuMemFree");
    if (driver().allocated.erase(pointer) != 1) {
        return fake::INVALID_VALUE;
    }
    free(reinterpret_cast<void *>(pointer));
    return 0;
}

Code cuMemsetD8Async(u64 pointer, unsigned char value, size_t bytes, void *) {
    IN_CONTEXT("cuMemsetD8Async");
    if (!fake::is_ours(pointer, bytes)) {
        return fake::INVALID_VALUE;
    }
    memset(reinterpret_cast<void *>(pointer), value, bytes);
    return 0;
}

Code cuMemcpyDtoHAsync_v2(void *into, u64 pointer, size_t bytes, void *) {
    CALL("cuMemcpyDtoHAsync");
    if (const Code code = fake::wait()) {
        return code;
    }
    memcpy(into, reinterpret_cast<void *>(pointer), bytes);
    return 0;
}

Code cuModuleLoadData(void **module, const void *image) {
    IN_CONTEXT("cuModuleLoadData");
    u32 magic = 0;
    memcpy(&magic, image, 4);
    if (magic != 0xba55ed50U) {
        return fake::INVALID_IMAGE;
    }
    *module = malloc(1);
    driver().modules.insert(*module);
    return 0;
}

Code cuModuleUnload(void *module) {
    IN_CONTEXT("cuModuleUnload");
    free(module);
    return driver().modules.erase(module) == 1 ? 0 : fake::INVALID_VALUE;
}

Code cuModuleGetLoadingMode(int *mode) {
    CALL("cuModuleGetLoadingMode");
    *mode = fake::number("ORLOP_FAKE_LAZY", 0) != 0 ? 2 : 1;
    return 0;
}

Code cuModuleGetFunction(void **function, void *, const char *name) {
    IN_CONTEXT("cuModuleGetFunction");
    const std::string asked = name;
    u64 found = 0;
    found = asked == "orlop_state_bytes" ? fake::STATE_BYTES : found;
    found = asked == "orlop_set_up" ? fake::SET_UP : found;
    found = asked == "orlop_megakernel" ? fake::MEGAKERNEL : found;
    *function = reinterpret_cast<void *>(found);
    return found == 0 ? fake::NOT_FOUND : 0;
}

Code cuFuncLoad(void *) {
    CALL("cuFuncLoad");
    return 0;
}

Code cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int threads, size_t) {
    IN_CONTEXT("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    *blocks = 1;
    return threads == 128 ? 0 : fake::INVALID_VALUE;
}

Code cuStreamCreate(void **stream, unsigned flags) {
    IN_CONTEXT("cuStreamCreate");
    *stream = malloc(1);
    driver().streams.insert(*stream);
    return flags == 1 ? 0 : fake::INVALID_VALUE;
}

Code cuStreamDestroy_v2(void *stream) {
    IN_CONTEXT("cuStreamDestroy");
    free(stream);
    return driver().streams.erase(stream) == 1 ? 0 : fake::INVALID_VALUE;
}

Code cuStreamQuery(void *) {
    IN_CONTEXT("cuStreamQuery");
    return driver().queue.empty() && !driver().runs ? 0 : fake::NOT_READY;
}

Code cuStreamSynchronize(void *) {
    CALL("cuStreamSynchronize");
    return fake::wait();
}

Code cuLaunchKernel(void *function, unsigned grid, unsigned, unsigned, unsigned block, unsigned,
                    unsigned, unsigned, void *, void **arguments, void **) {
    CALL("cuLaunchKernel");
    fake::Launch launch{};
    launch.function = reinterpret_cast<u64>(function);
    launch.blocks = grid;
    if (grid != 1 || block != 1) {
        return fake::INVALID_VALUE;
    }
    if (launch.function == fake::STATE_BYTES) {
        for (u32 at = 0; at < 3; ++at) {
            launch.small[at] = *static_cast<u32 *>(arguments[at]);
        }
        launch.limits = *static_cast<orlop::Limits *>(arguments[3]);
        launch.words[0] = *static_cast<u64 *>(arguments[4]);
    } else if (launch.function == fake::SET_UP) {
        launch.words[0] = *static_cast<u64 *>(arguments[0]);
        launch.words[1] = *static_cast<u64 *>(arguments[1]);
        launch.limits = *static_cast<orlop::Limits *>(arguments[2]);
        launch.words[2] = *static_cast<u64 *>(arguments[3]);
    } else {
        return fake::INVALID_VALUE;
    }
    return fake::enqueue(launch);
}

#ifndef ORLOP_FAKE_LACKS_LAUNCH
Code cuLaunchCooperativeKernel(void *function, unsigned grid, unsigned, unsigned, unsigned block,
                               unsigned, unsigned, unsigned, void *, void **arguments) {
    CALL("cuLaunchCooperativeKernel");
    if (reinterpret_cast<u64>(function) != fake::MEGAKERNEL || block != 128) {
        return fake::INVALID_VALUE;
    }
    if (grid > (unsigned)fake::MULTIPROCESSORS) {
        return fake::TOO_LARGE;
    }
    fake::Launch launch{};
    launch.function = fake::MEGAKERNEL;
    launch.blocks = grid;
    for (u32 at = 0; at < 4; ++at) {
        launch.words[at] = *static_cast<u64 *>(arguments[at]);
    }
    {
        std::lock_guard<std::mutex> held(driver().lock);
        driver().launches += 1;
    }
    return fake::enqueue(launch);
}
#endif

} // extern "C"
