// What the files of the emulated driver share: its options, its state, and the fence that every entry goes through.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace sconce {

using Result = int;  // CUresult
enum : Result {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidContext = 201,
    kNoBinaryForGpu = 209,
    kUnsupportedPtxVersion = 222,
    kInvalidHandle = 400,
    kNotFound = 500,
    kNotReady = 600,
    kIllegalAddress = 700,
    kLaunchOutOfResources = 701,
    kNotSupported = 801,
    kStreamCaptureUnsupported = 900,
};

// What SCONCE_EMULATED_GPU says, read at cuInit; options.cpp explains each.
struct Options {
    int devices = 1;
    int driver_version = 13000;
    int capability_major = 9, capability_minor = 0;
    size_t memory = size_t(16) << 30;
    uint64_t launch_fails_at = 0, lost_at = 0;
    int lost_with = kIllegalAddress;
    std::string launch_fails_when, lost_when, garbage, name = "Emulated GPU";
    bool trace = false, launches = false, check = false, guard = false;
    std::vector<int> visible;  // ordinals of the machine, in the order of CUDA_VISIBLE_DEVICES
};
Options read_options();

struct Context {
    int device = 0;
};

struct State {
    std::recursive_mutex lock;
    bool initialized = false;
    Options options;
    Result lost = kSuccess;  // sticky: what every call answers once a kernel has failed
    uint64_t launches = 0;
    int capturing = 0;  // streams in capture
};
State& state();
Context*& current_context();

// Runs `body` under the driver's lock, if the driver is initialised and the device is not lost.
template <class Body>
Result call(Body body) {
    std::lock_guard<std::recursive_mutex> lock(state().lock);
    if (!state().initialized) return kNotInitialized;
    if (state().lost) return state().lost;
    return body();
}

// The same for calls that need a current context.
template <class Body>
Result call_in_context(Body body) {
    return call([&] { return current_context() ? body() : Result(kInvalidContext); });
}

// The same for calls that wait for the device, which a capture forbids.
template <class Body>
Result call_waiting(Body body) {
    return call_in_context([&] { return state().capturing ? Result(kStreamCaptureUnsupported) : body(); });
}

// Device memory (memory.cpp).
Result allocate(uint64_t* out, size_t bytes);
Result release(uint64_t pointer);
bool is_device_range(uint64_t pointer, size_t bytes);
void check_guards(const char* after);
void catch_bad_accesses();

// Work on a stream (stream.cpp): runs `work` at once, or keeps a copy of it while the stream is captured.
using Work = std::function<Result()>;
bool is_capturing(void* stream);
void capture(void* stream, Work work);
void capture_release(void* stream, uint64_t pointer);
template <class F>
Result enqueue(void* stream, F work) {
    if (!is_capturing(stream)) return work();
    capture(stream, work);
    return kSuccess;
}

// Counts a launch and answers the fault that is due with it (module.cpp); `skip` says that it shall do nothing.
Result begin_launch(const char* name, bool* skip);
Result end_launch(const char* name, Result result);

}  // namespace sconce

// For the emulated cuBLAS: runs or captures `run(data)` as a launch called `name`; `data` is copied.
API int sconce_emulated_enqueue(void* stream, const char* name, void (*run)(const void* data), const void* data, size_t bytes);
