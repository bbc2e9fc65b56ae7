// Streams, events, capture and graphs. Work runs when it is given to a stream, so all is done when a call returns;
// a captured stream keeps its work instead, and a graph runs what was kept.
#include <chrono>
#include <memory>

#include "driver.h"

namespace sconce {

namespace {

// What a capture has kept. Memory that was freed within it lives as long as the graph, which may use it again.
struct Captured {
    std::vector<Work> works;
    std::vector<uint64_t> released;
    ~Captured() {
        for (uint64_t pointer : released) release(pointer);
    }
};

struct Stream {
    int device = 0;
    std::shared_ptr<Captured> captured;  // while it is captured
};

struct Graph {
    std::shared_ptr<Captured> captured;
};

struct Event {
    std::chrono::steady_clock::time_point at;
};

// The default streams are the handles 0 to 2.
Stream* stream_of(void* handle) {
    static auto* defaults = new Stream[3];
    const auto number = reinterpret_cast<uintptr_t>(handle);
    return number < 3 ? &defaults[number] : static_cast<Stream*>(handle);
}

Result new_stream(void** out) {
    *out = new Stream{current_context()->device, nullptr};
    return kSuccess;
}

}  // namespace

bool is_capturing(void* stream) { return state().capturing && stream_of(stream)->captured; }

void capture(void* stream, Work work) { stream_of(stream)->captured->works.push_back(std::move(work)); }

void capture_release(void* stream, uint64_t pointer) { stream_of(stream)->captured->released.push_back(pointer); }

}  // namespace sconce

using namespace sconce;

API int cuStreamCreate(void** out, unsigned) {
    return call_in_context([&] { return new_stream(out); });
}
API int cuStreamCreateWithPriority(void** out, unsigned, int) {
    return call_in_context([&] { return new_stream(out); });
}
API int cuStreamDestroy_v2(void* stream) {
    return call([&] {
        if (reinterpret_cast<uintptr_t>(stream) >= 3) delete stream_of(stream);
        return kSuccess;
    });
}
API int cuStreamSynchronize(void* stream) {
    return call_in_context([&] {
        if (is_capturing(stream)) return Result(kStreamCaptureUnsupported);
        check_guards(nullptr);
        return Result(kSuccess);
    });
}
API int cuStreamQuery(void*) {
    return call_in_context([] { return kSuccess; });
}
API int cuStreamWaitEvent(void*, void*, unsigned) {
    return call_in_context([] { return kSuccess; });
}
API int cuStreamGetFlags(void*, unsigned* flags) {
    return call_in_context([&] { return *flags = 0, kSuccess; });
}
API int cuStreamGetPriority(void*, int* priority) {
    return call_in_context([&] { return *priority = 0, kSuccess; });
}
API int cuStreamAttachMemAsync(void*, uint64_t, size_t, unsigned) {
    return call_in_context([] { return kSuccess; });
}
API int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return call_in_context([&] { return enqueue(stream, [=] { return function(data), Result(kSuccess); }); });
}

API int cuEventCreate(void** out, unsigned) {
    return call_in_context([&] { return *out = new Event, kSuccess; });
}
API int cuEventDestroy_v2(void* event) {
    return call([&] { return delete static_cast<Event*>(event), kSuccess; });
}
API int cuEventRecord(void* event, void*) {
    return call_in_context([&] { return static_cast<Event*>(event)->at = std::chrono::steady_clock::now(), kSuccess; });
}
API int cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }
API int cuEventQuery(void*) {
    return call_in_context([] { return kSuccess; });
}
API int cuEventSynchronize(void*) {
    return call_waiting([] { return kSuccess; });
}
API int cuEventElapsedTime_v2(float* milliseconds, void* begin, void* end) {
    return call_in_context([&] {
        const auto passed = static_cast<Event*>(end)->at - static_cast<Event*>(begin)->at;
        *milliseconds = std::chrono::duration<float, std::milli>(passed).count();
        return kSuccess;
    });
}
API int cuEventElapsedTime(float* milliseconds, void* begin, void* end) {
    return cuEventElapsedTime_v2(milliseconds, begin, end);
}

API int cuStreamBeginCapture_v2(void* stream, int) {
    return call_in_context([&] {
        if (is_capturing(stream) || reinterpret_cast<uintptr_t>(stream) < 2) return Result(kStreamCaptureUnsupported);
        stream_of(stream)->captured = std::make_shared<Captured>();
        state().capturing++;
        return Result(kSuccess);
    });
}
API int cuStreamEndCapture(void* stream, void** graph) {
    return call_in_context([&] {
        if (!is_capturing(stream)) return Result(401);  // illegal state
        *graph = new Graph{std::move(stream_of(stream)->captured)};
        stream_of(stream)->captured = nullptr;
        state().capturing--;
        return Result(kSuccess);
    });
}
API int cuStreamIsCapturing(void* stream, int* status) {
    return call_in_context([&] { return *status = is_capturing(stream), kSuccess; });
}
API int cuStreamGetCaptureInfo_v2(void* stream, int* status, uint64_t* id, void** graph, const void*** nodes, size_t* count) {
    return call_in_context([&] {
        *status = is_capturing(stream);
        if (id) *id = reinterpret_cast<uint64_t>(stream);
        if (graph) *graph = nullptr;
        if (nodes) *nodes = nullptr;
        if (count) *count = 0;
        return kSuccess;
    });
}
API int cuStreamGetCaptureInfo_v3(void* stream, int* status, uint64_t* id, void** graph, const void*** nodes, const void**,
                                  size_t* count) {
    return cuStreamGetCaptureInfo_v2(stream, status, id, graph, nodes, count);
}
API int cuThreadExchangeStreamCaptureMode(int*) {
    return call([] { return kSuccess; });
}

API int cuGraphInstantiateWithFlags(void** executable, void* graph, uint64_t) {
    return call_in_context([&] { return *executable = new Graph(*static_cast<Graph*>(graph)), kSuccess; });
}
API int cuGraphUpload(void*, void*) {
    return call_in_context([] { return kSuccess; });
}
API int cuGraphLaunch(void* executable, void*) {
    return call_in_context([&] {
        for (const Work& work : static_cast<Graph*>(executable)->captured->works)
            if (Result result = work()) return result;
        return Result(kSuccess);
    });
}
API int cuGraphDestroy(void* graph) {
    return call([&] { return delete static_cast<Graph*>(graph), kSuccess; });
}
API int cuGraphExecDestroy(void* executable) { return cuGraphDestroy(executable); }
API int cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    return call([&] {
        if (nodes) return Result(kNotSupported);
        *count = static_cast<Graph*>(graph)->captured->works.size();
        return Result(kSuccess);
    });
}
