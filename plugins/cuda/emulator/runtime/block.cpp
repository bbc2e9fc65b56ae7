// Runs kernels: the threads of a block are fibers on the calling host thread, one block after the other.
//
// A fiber runs thread after thread until one of them has to wait; only then is another fiber begun. So a kernel
// without barriers runs as a plain loop, and one with shuffles needs no more fibers than a warp has lanes.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "fiber.h"
#include "launch.h"
#include "warp.h"

// What kernels read as threadIdx and so on; the shim declares them const, since no thread sees them change.
extern "C" {
sconce::Extent sconce_thread_index, sconce_block_index, sconce_block_size, sconce_grid_size;
}

namespace sconce {

LaunchOptions launch_options;

namespace {

const unsigned kMaxThreads = 1024;
const unsigned kBarriers = 16;
const size_t kSharedGuard = 64;

struct Fiber {
    void* saved = nullptr;
    char* stack_top = nullptr;
    Extent index{};
    unsigned thread = 0;
    unsigned value = 0;  // what it brought to a barrier, then what it takes away
};

struct Warp {
    unsigned alive = 0;
    unsigned waiting = 0;
    unsigned mask[32];
    void* slot[32];
    void (*resolve[32])(WarpSlots);
    Fiber* fiber[32];
};

struct Barrier {
    std::vector<Fiber*> waiting;
    unsigned threads = 0;
};

struct Block {
    const Launch* launch = nullptr;
    unsigned threads = 0, begun = 0, alive = 0;
    Extent last_index{};  // of the thread begun last
    Fiber* current = nullptr;
    void* host = nullptr;  // where `run` waits
    int error = 0;
    std::vector<Fiber*> ready;
    size_t next_ready = 0;
    std::vector<Fiber*> idle;
    std::vector<Fiber*> fibers;
    Barrier barriers[kBarriers];
    Warp warps[kMaxThreads / 32];
    std::vector<unsigned char> shared;  // and kSharedGuard bytes that nobody may write
};

Block block;

void fiber_main();

Fiber* idle_fiber() {
    if (block.idle.empty()) {
        auto* fiber = new Fiber;
        fiber->stack_top = new_stack(static_cast<unsigned>(block.fibers.size()));
        fiber->saved = prepare(fiber->stack_top, fiber_main);
        block.fibers.push_back(fiber);
        return fiber;
    }
    Fiber* fiber = block.idle.back();
    block.idle.pop_back();
    return fiber;
}

bool any_ready() { return block.next_ready < block.ready.size(); }

Fiber* take_ready() {
    Fiber* fiber = block.ready[block.next_ready++];
    if (!any_ready()) {
        block.ready.clear();
        block.next_ready = 0;
    }
    return fiber;
}

// Lanes that wait for the same others, on one line.
void report_warp(unsigned number, const Warp& warp) {
    for (unsigned rest = warp.waiting; rest;) {
        const unsigned mask = warp.mask[__builtin_ctz(rest)];
        unsigned lanes = 0;
        for (unsigned lane = 0; lane < 32; lane++)
            if ((rest >> lane & 1) && warp.mask[lane] == mask) lanes |= 1u << lane;
        std::fprintf(stderr, "  lanes 0x%08x of warp %u wait for the lanes 0x%08x (exited: 0x%08x)\n", lanes, number, mask,
                     ~warp.alive);
        rest &= ~lanes;
    }
}

void report_waiting() {
    std::fprintf(stderr, "emulated GPU: kernel `%s` cannot go on: in block (%u, %u, %u), of %u threads\n",
                 block.launch->kernel->name, sconce_block_index.x, sconce_block_index.y, sconce_block_index.z, block.threads);
    std::fprintf(stderr, "  %u have exited\n", block.threads - block.alive);
    for (unsigned id = 0; id < kBarriers; id++)
        if (size_t count = block.barriers[id].waiting.size()) std::fprintf(stderr, "  %zu wait at barrier %u\n", count, id);
    for (unsigned w = 0; w * 32 < block.threads; w++)
        if (block.warps[w].waiting) report_warp(w, block.warps[w]);
}

[[noreturn]] void deadlock() {
    report_waiting();
    std::fflush(stderr);
    std::abort();
}

// Goes on with a fiber that can, or begins a thread; a block in which nothing can is a deadlock.
void leave(Fiber* self) {
    Fiber* next = nullptr;
    if (any_ready())
        next = take_ready();
    else if (block.begun < block.threads)
        next = idle_fiber();
    else if (block.alive > 0)
        deadlock();
    if (next == self) return;  // the last to come to a barrier may be the first to leave it
    block.current = next;
    sconce_switch(&self->saved, next ? next->saved : block.host);
}

void wait() {
    Fiber* self = block.current;
    leave(self);
    sconce_thread_index = self->index;
}

void release(Barrier& barrier) {
    unsigned sum = 0;
    for (Fiber* fiber : barrier.waiting) sum += fiber->value;
    for (Fiber* fiber : barrier.waiting) fiber->value = sum;
    if (launch_options.reverse)
        block.ready.insert(block.ready.end(), barrier.waiting.rbegin(), barrier.waiting.rend());
    else
        block.ready.insert(block.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
}

// Whether all whom `lane` waits for are here, in the same call.
bool complete(const Warp& warp, unsigned lane) {
    const unsigned need = warp.mask[lane] & warp.alive;
    if ((warp.waiting & need) != need) return false;
    for (unsigned rest = need; rest; rest &= rest - 1) {
        const unsigned other = static_cast<unsigned>(__builtin_ctz(rest));
        if (warp.mask[other] != warp.mask[lane] || warp.resolve[other] != warp.resolve[lane]) return false;
    }
    return true;
}

// Runs the step that `lane` and its partners wait for and lets them go on; all but `self`, which is not waiting yet.
void finish(Warp& warp, unsigned lane, const Fiber* self) {
    const unsigned need = warp.mask[lane] & warp.alive;
    if (warp.resolve[lane]) {
        void* slots[32] = {};
        for (unsigned rest = need; rest; rest &= rest - 1) slots[__builtin_ctz(rest)] = warp.slot[__builtin_ctz(rest)];
        warp.resolve[lane](slots);
    }
    warp.waiting &= ~need;
    for (unsigned rest = need; rest; rest &= rest - 1) {
        Fiber* fiber = warp.fiber[__builtin_ctz(rest)];
        if (fiber != self) block.ready.push_back(fiber);
    }
}

// A thread that exits may be the one that others would have waited for.
void thread_exits(unsigned thread) {
    Warp& warp = block.warps[thread / 32];
    warp.alive &= ~(1u << thread % 32);
    block.alive--;
    if (warp.waiting) {
        for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
            const unsigned other = static_cast<unsigned>(__builtin_ctz(rest));
            if ((warp.waiting >> other & 1) && complete(warp, other)) finish(warp, other, nullptr);
        }
    }
    Barrier& all = block.barriers[0];
    if (!all.waiting.empty() && all.waiting.size() == block.alive) release(all);
}

// The index after this one in a block of this size: cheaper than dividing.
Extent after(Extent index, const Extent& size) {
    if (++index.x < size.x) return index;
    index.x = 0;
    if (++index.y < size.y) return index;
    index.y = 0;
    index.z++;
    return index;
}

void run_next_thread() {
    const unsigned turn = block.begun++;
    const Extent& size = block.launch->block;
    unsigned thread = turn;
    Extent index{0, 0, 0};
    if (launch_options.reverse) {
        thread = block.threads - 1 - turn;
        index = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
    } else if (turn > 0) {
        index = after(block.last_index, size);
    }
    // Stored from registers: a copy of what was just stored in parts would wait for the stores.
    block.last_index = index;
    block.current->index = index;
    block.current->thread = thread;
    sconce_thread_index = index;
    block.launch->kernel->body(block.launch->arguments);
    thread_exits(thread);
}

void fiber_main() {
    for (;;) {
        Fiber* self = block.current;
        while (!any_ready() && block.begun < block.threads) run_next_thread();
        block.idle.push_back(self);
        leave(self);
    }
}

// After a launch that failed, fibers are left in the middle of threads: all begin anew.
void reset_fibers() {
    block.idle.clear();
    for (Fiber* fiber : block.fibers) {
        fiber->saved = prepare(fiber->stack_top, fiber_main);
        block.idle.push_back(fiber);
    }
}

void begin_block(const Extent& index) {
    sconce_block_index = index;
    block.begun = 0;
    block.alive = block.threads;
    block.ready.clear();
    block.next_ready = 0;
    for (Barrier& barrier : block.barriers) barrier.waiting.clear();
    for (unsigned w = 0; w * 32 < block.threads; w++) {
        const unsigned lanes = block.threads - w * 32;
        block.warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        block.warps[w].waiting = 0;
    }
    std::memset(block.shared.data(), 0xFF, block.shared.size());
}

void check_shared() {
    for (size_t i = block.launch->shared_bytes; i < block.shared.size(); i++) {
        if (block.shared[i] == 0xFF) continue;
        std::fprintf(stderr, "emulated GPU: kernel `%s` wrote past its %zu bytes of dynamic shared memory\n",
                     block.launch->kernel->name, block.launch->shared_bytes);
        std::abort();
    }
}

void run_block(const Extent& index) {
    begin_block(index);
    block.current = idle_fiber();
    sconce_switch(&block.host, block.current->saved);
    if (!block.error) check_shared();
}

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

}  // namespace

int run(const Launch& launch) {
    block.launch = &launch;
    block.threads = launch.block.x * launch.block.y * launch.block.z;
    block.error = 0;
    block.shared.resize(launch.shared_bytes + kSharedGuard);
    sconce_block_size = launch.block;
    sconce_grid_size = launch.grid;
    const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    for (uint64_t turn = 0; turn < blocks && !block.error; turn++) {
        const uint64_t i = launch_options.reverse ? blocks - 1 - turn : turn;
        run_block({unsigned(i % launch.grid.x), unsigned(i / launch.grid.x % launch.grid.y),
                   unsigned(i / launch.grid.x / launch.grid.y)});
    }
    block.launch = nullptr;
    return block.error;
}

const Launch* running() { return block.launch; }

void abandon_launch(int cuda_error) {
    block.error = cuda_error;
    reset_fibers();
    void* nowhere;
    sconce_switch(&nowhere, block.host);
    std::abort();
}

void fail_launch(int cuda_error, const char* what, const char* file, int line) {
    const Extent& at = sconce_thread_index;
    std::fprintf(stderr, "emulated GPU: kernel `%s`, block (%u, %u, %u), thread (%u, %u, %u): %s (%s:%d)\n",
                 block.launch->kernel->name, sconce_block_index.x, sconce_block_index.y, sconce_block_index.z, at.x, at.y, at.z,
                 what, file, line);
    abandon_launch(cuda_error);
}

unsigned block_barrier(unsigned value) {
    Fiber* self = block.current;
    Barrier& all = block.barriers[0];
    self->value = value;
    all.waiting.push_back(self);
    if (all.waiting.size() == block.alive) release(all);
    wait();
    return self->value;
}

void named_barrier(unsigned id, unsigned threads) {
    Barrier& barrier = block.barriers[id % kBarriers];
    barrier.waiting.push_back(block.current);
    if (barrier.waiting.size() == threads) release(barrier);
    wait();
}

void warp_meet(unsigned mask, void* slot, void (*resolve)(WarpSlots)) {
    Fiber* self = block.current;
    Warp& warp = block.warps[self->thread / 32];
    const unsigned lane = self->thread % 32;
    if (!(mask >> lane & 1)) fail_launch(719, "a lane calls a warp function whose mask leaves it out", "", 0);
    warp.mask[lane] = mask;
    warp.slot[lane] = slot;
    warp.resolve[lane] = resolve;
    warp.fiber[lane] = self;
    warp.waiting |= 1u << lane;
    if (complete(warp, lane))
        finish(warp, lane, self);
    else
        wait();
}

unsigned warp_present() { return block.warps[block.current->thread / 32].alive; }

unsigned warp_lane() { return block.current->thread % 32; }

void* dynamic_shared() { return block.shared.data(); }

size_t dynamic_shared_size() { return block.launch->shared_bytes; }

const Kernel* find_kernel(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

KernelTable::KernelTable(const char* source, std::initializer_list<Kernel> list) {
    for (const Kernel& kernel : list)
        if (!kernels().emplace(kernel.name, kernel).second)
            std::fprintf(stderr, "emulated GPU: two kernels are called `%s`; the one in %s is left out\n", kernel.name, source);
}

}  // namespace sconce
