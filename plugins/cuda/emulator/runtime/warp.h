// What a kernel may ask of the runtime while it runs: barriers, calls made by a whole warp together, the block's
// dynamic shared memory, and a way to fail. Kernels see this through the shim headers; how threads are run is in block.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sconce {

// The slots that the lanes of one warp have posted, by lane; null where a lane takes no part (it has exited).
using WarpSlots = void* const (&)[32];

// Waits until every thread of the block that has not exited is here, and returns the sum of what they passed.
unsigned block_barrier(unsigned value);

// Waits until `threads` threads are at barrier `id` (1 to 15), as PTX's `bar.sync id, threads` does.
void named_barrier(unsigned id, unsigned threads);

// Waits until every lane of `mask` that has not exited called this with the same `mask` and `resolve`. The last to
// come runs `resolve` over everybody's `slot`, once; `resolve` may be null.
void warp_meet(unsigned mask, void* slot, void (*resolve)(WarpSlots slots));

// The lanes of the calling thread's warp that have not exited, and the caller's place in it.
unsigned warp_present();
unsigned warp_lane();

// The dynamic shared memory of the running block: filled with 0xFF when the block begins.
void* dynamic_shared();
size_t dynamic_shared_size();

// Ends the launch with an error that sticks to the context, as an assertion or a trap does on a device.
[[noreturn]] void fail_launch(int cuda_error, const char* what, const char* file, int line);

// A step that a whole warp takes together: lanes post `In`, one of them computes everybody's `Out`.
template <class In, class Out>
class Lanes {
  public:
    struct Slot {
        const In* in;
        Out* out;
        void* step;
    };
    explicit Lanes(WarpSlots slots) : slots_(slots) {}
    bool present(unsigned lane) const { return slots_[lane] != nullptr; }
    const In& in(unsigned lane) const { return *slot(lane).in; }
    Out& out(unsigned lane) const { return *slot(lane).out; }

  private:
    Slot& slot(unsigned lane) const { return *static_cast<Slot*>(slots_[lane]); }
    WarpSlots slots_;
};

// `warp_step(mask, in, out, [](auto& lanes) { ... lanes.in(i) ... lanes.out(j) = ...; })`: the lambda runs once for the
// warp. Read only lanes that are `present`.
template <class In, class Out, class Step>
void warp_step(unsigned mask, const In& in, Out& out, Step step) {
    using All = Lanes<In, Out>;
    typename All::Slot mine{&in, &out, &step};
    warp_meet(mask, &mine, [](WarpSlots slots) {
        All lanes(slots);
        for (void* slot : slots)
            if (slot) return (*static_cast<Step*>(static_cast<typename All::Slot*>(slot)->step))(lanes);
    });
}

}  // namespace sconce
