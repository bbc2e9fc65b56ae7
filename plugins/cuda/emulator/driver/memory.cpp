// Device memory, which is host memory: filled with 0xFF (NaN as a float of any width) when it is given and when it is
// taken back, and fenced, so that a kernel that reads what nobody wrote or writes where it must not is found out.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "../runtime/launch.h"
#include "driver.h"

namespace sconce {

namespace {

const size_t kFence = 256;
const unsigned char kFenceByte = 0xA5;

struct Allocation {
    size_t bytes = 0;
    char* base = nullptr;   // where the host's allocation begins
    size_t mapped = 0;      // its length if it was mapped for a guard page, else 0
    int device = 0;
};

std::map<uint64_t, Allocation>& allocations() {
    static auto* the = new std::map<uint64_t, Allocation>;
    return *the;
}

std::map<int, size_t>& used() {
    static auto* the = new std::map<int, size_t>;
    return *the;
}

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

// The allocation that `pointer` lies in, or null.
const std::pair<const uint64_t, Allocation>* find(uint64_t pointer) {
    auto after = allocations().upper_bound(pointer);
    if (after == allocations().begin()) return nullptr;
    --after;
    return pointer < after->first + after->second.bytes ? &*after : nullptr;
}

// Ends as close before a page without access as an alignment of 16 allows.
char* map_before_guard(Allocation& allocation) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t data = round_up(allocation.bytes, page);
    allocation.mapped = data + page;
    void* at = mmap(nullptr, allocation.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    allocation.base = static_cast<char*>(at);
    mprotect(allocation.base + data, page, PROT_NONE);
    return allocation.base + data - round_up(allocation.bytes, 16);
}

char* allocate_fenced(Allocation& allocation) {
    const size_t total = kFence + round_up(allocation.bytes, kFence) + kFence;
    allocation.base = static_cast<char*>(std::aligned_alloc(kFence, total));
    if (!allocation.base) return nullptr;
    std::memset(allocation.base, kFenceByte, kFence);
    char* data = allocation.base + kFence;
    std::memset(data + allocation.bytes, kFenceByte, total - kFence - allocation.bytes);
    return data;
}

bool fences_hold(uint64_t pointer, const Allocation& allocation) {
    static const struct Pattern {
        unsigned char bytes[kFence];
        Pattern() { std::memset(bytes, kFenceByte, kFence); }
    } pattern;
    if (allocation.mapped) return true;
    const char* data = reinterpret_cast<const char*>(pointer);
    return std::memcmp(data - kFence, pattern.bytes, kFence) == 0 &&
           std::memcmp(data + allocation.bytes, pattern.bytes, kFence) == 0;
}

[[noreturn]] void fence_broken(uint64_t pointer, const Allocation& allocation, const char* after) {
    std::fprintf(stderr, "emulated GPU: something wrote outside of the allocation of %zu bytes at 0x%llx; found after %s\n",
                 allocation.bytes, static_cast<unsigned long long>(pointer), after ? after : "a synchronisation");
    if (!after) std::fprintf(stderr, "  SCONCE_EMULATED_GPU=check says which kernel\n");
    std::fflush(stderr);
    std::abort();
}

void drop(uint64_t pointer, const Allocation& allocation) {
    if (!fences_hold(pointer, allocation)) fence_broken(pointer, allocation, nullptr);
    used()[allocation.device] -= allocation.bytes;
    if (allocation.mapped) {
        munmap(allocation.base, allocation.mapped);
        return;
    }
    std::memset(reinterpret_cast<void*>(pointer), 0xFF, allocation.bytes);
    std::free(allocation.base);
}

void on_bad_access(int signal, siginfo_t* info, void*) {
    if (!running()) {
        struct sigaction usual = {};
        usual.sa_handler = SIG_DFL;
        sigaction(signal, &usual, nullptr);
        return;  // happens again, with the usual end
    }
    std::fprintf(stderr, "emulated GPU: kernel `%s` reads or writes at %p, outside of any allocation\n", running()->kernel->name,
                 info->si_addr);
    abandon_launch(kIllegalAddress);
}

}  // namespace

Result allocate(uint64_t* out, size_t bytes) {
    if (bytes == 0) return kInvalidValue;
    const int device = current_context()->device;
    if (bytes > state().options.memory - used()[device]) return kOutOfMemory;
    Allocation allocation;
    allocation.bytes = bytes;
    allocation.device = device;
    char* data = state().options.guard ? map_before_guard(allocation) : allocate_fenced(allocation);
    if (!data) return kOutOfMemory;
    std::memset(data, 0xFF, bytes);
    used()[device] += bytes;
    *out = reinterpret_cast<uint64_t>(data);
    allocations()[*out] = allocation;
    return kSuccess;
}

Result release(uint64_t pointer) {
    if (pointer == 0) return kSuccess;
    auto found = allocations().find(pointer);
    if (found == allocations().end()) return kInvalidValue;
    drop(pointer, found->second);
    allocations().erase(found);
    return kSuccess;
}

bool is_device_range(uint64_t pointer, size_t bytes) {
    const auto* found = find(pointer);
    return found && pointer + bytes <= found->first + found->second.bytes;
}

void check_guards(const char* after) {
    for (const auto& [pointer, allocation] : allocations())
        if (!fences_hold(pointer, allocation)) fence_broken(pointer, allocation, after);
}

void catch_bad_accesses() {
    struct sigaction action = {};
    action.sa_sigaction = on_bad_access;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

}  // namespace sconce

using namespace sconce;

API int cuMemGetInfo_v2(size_t* available, size_t* total) {
    return call_in_context([&] {
        *total = state().options.memory;
        *available = *total - used()[current_context()->device];
        return kSuccess;
    });
}

API int cuMemAlloc_v2(uint64_t* out, size_t bytes) {
    return call_waiting([&] { return allocate(out, bytes); });
}
API int cuMemAllocAsync(uint64_t* out, size_t bytes, void*) {
    return call_in_context([&] { return allocate(out, bytes); });
}
API int cuMemAllocFromPoolAsync(uint64_t* out, size_t bytes, void*, void*) {
    return call_in_context([&] { return allocate(out, bytes); });
}
API int cuMemAllocManaged(uint64_t* out, size_t bytes, unsigned) {
    return call_waiting([&] { return allocate(out, bytes); });
}
API int cuMemFree_v2(uint64_t pointer) {
    return call_waiting([&] { return release(pointer); });
}
API int cuMemFreeAsync(uint64_t pointer, void* stream) {
    return call_in_context([&] {
        if (!is_capturing(stream)) return release(pointer);
        capture_release(stream, pointer);
        return Result(kSuccess);
    });
}
API int cuMemGetAddressRange_v2(uint64_t* base, size_t* bytes, uint64_t pointer) {
    return call_in_context([&] {
        const auto* found = find(pointer);
        if (!found) return Result(kNotFound);
        if (base) *base = found->first;
        if (bytes) *bytes = found->second.bytes;
        return Result(kSuccess);
    });
}

// Pinned memory is ordinary memory.
API int cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    return call_in_context([&] {
        *out = std::aligned_alloc(4096, round_up(bytes ? bytes : 1, 4096));
        return *out ? Result(kSuccess) : Result(kOutOfMemory);
    });
}
API int cuMemAllocHost_v2(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
API int cuMemFreeHost(void* pointer) {
    return call_in_context([&] { return std::free(pointer), kSuccess; });
}
API int cuMemHostRegister_v2(void*, size_t, unsigned) {
    return call_in_context([] { return kSuccess; });
}
API int cuMemHostUnregister(void*) {
    return call_in_context([] { return kSuccess; });
}
API int cuMemHostGetDevicePointer_v2(uint64_t* out, void* pointer, unsigned) {
    return call_in_context([&] { return *out = reinterpret_cast<uint64_t>(pointer), kSuccess; });
}

// One pool per device, which keeps nothing back: its attributes are all 0.
static int the_pool;
API int cuDeviceGetDefaultMemPool(void** pool, int) {
    return call([&] { return *pool = &the_pool, kSuccess; });
}
API int cuDeviceGetMemPool(void** pool, int) { return cuDeviceGetDefaultMemPool(pool, 0); }
API int cuDeviceSetMemPool(int, void*) {
    return call([] { return kSuccess; });
}
API int cuMemPoolCreate(void** pool, const void*) { return cuDeviceGetDefaultMemPool(pool, 0); }
API int cuMemPoolDestroy(void*) {
    return call([] { return kSuccess; });
}
API int cuMemPoolTrimTo(void*, size_t) {
    return call([] { return kSuccess; });
}
API int cuMemPoolSetAttribute(void*, int, void*) {
    return call([] { return kSuccess; });
}
API int cuMemPoolGetAttribute(void*, int, void* value) {
    return call([&] { return *static_cast<uint64_t*>(value) = 0, kSuccess; });
}
