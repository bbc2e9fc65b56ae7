// Tests of the emulated driver through the functions that a program calls: its devices, memory, graphs and faults.
#include <cstdint>
#include <cstring>

#include "check.h"

extern "C" {
int cuInit(unsigned);
int cuDriverGetVersion(int*);
int cuDeviceGetCount(int*);
int cuDeviceGetAttribute(int*, int, int);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuMemsetD8_v2(uint64_t, unsigned char, size_t);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, uint64_t);
int cuGraphLaunch(void*, void*);
int cuGraphDestroy(void*);
int cuGraphExecDestroy(void*);
int cuTexRefCreate(void**);
}

static int open_device() {
    if (int error = cuInit(0)) return error;
    void* context;
    if (int error = cuDevicePrimaryCtxRetain(&context, 0)) return error;
    return cuCtxSetCurrent(context);
}

static uint64_t allocate(size_t bytes) {
    uint64_t at;
    CHECK(cuMemAlloc_v2(&at, bytes) == 0);
    return at;
}

static float first(uint64_t at) {
    float value;
    CHECK(cuMemcpyDtoH_v2(&value, at, sizeof(value)) == 0);
    return value;
}

static void* function(const char* name) {
    void *module, *function;
    CHECK(cuModuleLoadData(&module, "") == 0 && cuModuleGetFunction(&function, module, name) == 0);
    return function;
}

// candle's `fill_f32`: `value` into `count` floats.
static int fill(uint64_t at, float value, size_t count, void* stream = nullptr, unsigned threads = 32) {
    static void* kernel = function("fill_f32");
    void* arguments[] = {&at, &value, &count};
    return cuLaunchKernel(kernel, 1, 1, 1, threads, 1, 1, 0, stream, arguments, nullptr);
}

static void usual() {
    int value;
    CHECK(open_device() == 0);
    CHECK(cuDriverGetVersion(&value) == 0 && value == 13000);
    CHECK(cuDeviceGetCount(&value) == 0 && value == 1);
    CHECK(cuDeviceGetAttribute(&value, 75, 0) == 0 && value == 9);
    void *module, *none;
    CHECK(cuModuleLoadData(&module, "") == 0 && cuModuleGetFunction(&none, module, "no_such_kernel") == 500);
    const uint64_t at = allocate(40);
    CHECK(first(at) != first(at));  // NaN: nobody wrote it
    CHECK(fill(at, 2.5f, 10) == 0 && first(at + 36) == 2.5f);
    CHECK(fill(at, 2.5f, 10, nullptr, 1025) == 1);  // too many threads
    CHECK(cuMemsetD8_v2(at, 0, 41) == 1);           // past the end
    CHECK(cuMemFree_v2(at) == 0 && cuMemFree_v2(at) == 1);
    CHECK(cuTexRefCreate(&none) == 801);
}

static void memory() {
    size_t available, total;
    CHECK(open_device() == 0);
    const uint64_t at = allocate(600);
    uint64_t more;
    CHECK(cuMemAlloc_v2(&more, 401) == 2);
    CHECK(cuMemGetInfo_v2(&available, &total) == 0 && available == 400 && total == 1000);
    CHECK(cuMemFree_v2(at) == 0);
    CHECK(cuMemAlloc_v2(&more, 401) == 0);
}

static void graphs() {
    CHECK(open_device() == 0);
    const uint64_t at = allocate(40);
    void *stream, *graph, *executable;
    CHECK(cuStreamCreate(&stream, 0) == 0 && fill(at, 1.0f, 10, stream) == 0);
    CHECK(cuStreamBeginCapture_v2(stream, 0) == 0);
    CHECK(fill(at, 2.0f, 10, stream) == 0 && cuStreamSynchronize(stream) == 900);
    CHECK(cuStreamEndCapture(stream, &graph) == 0);
    CHECK(first(at) == 1.0f);  // kept, not run
    CHECK(cuGraphInstantiateWithFlags(&executable, graph, 0) == 0 && cuGraphDestroy(graph) == 0);
    CHECK(cuGraphLaunch(executable, stream) == 0 && first(at) == 2.0f);
    CHECK(fill(at, 3.0f, 10) == 0 && cuGraphLaunch(executable, stream) == 0 && first(at) == 2.0f);
    CHECK(cuGraphExecDestroy(executable) == 0);
}

static void fails_once() {
    CHECK(open_device() == 0);
    const uint64_t at = allocate(40);
    CHECK(fill(at, 1.0f, 10) == 0 && fill(at, 2.0f, 10) == 701 && first(at) == 1.0f);
    CHECK(fill(at, 3.0f, 10) == 0 && first(at) == 3.0f);
}

static void is_lost() {
    CHECK(open_device() == 0);
    const uint64_t at = allocate(40);
    uint64_t more;
    CHECK(fill(at, 1.0f, 10) == 0 && fill(at, 2.0f, 10) == 719);
    CHECK(fill(at, 3.0f, 10) == 719 && cuMemAlloc_v2(&more, 4) == 719 && cuMemFree_v2(at) == 719);
}

static void garbage() {
    CHECK(open_device() == 0);
    const uint64_t at = allocate(40);
    CHECK(fill(at, 1.0f, 10) == 0 && first(at) != first(at));
}

static void writes_outside(size_t count) {
    CHECK(open_device() == 0);
    const uint64_t at = allocate(40);
    CHECK(fill(at, 1.0f, count) == 0);
}

static void visible(const char* list, int error, int count) {
    setenv("CUDA_VISIBLE_DEVICES", list, 1);
    int found = 0;
    CHECK(cuInit(0) == error);
    CHECK(error || (cuDeviceGetCount(&found) == 0 && found == count));
}

int main() {
    unsetenv("CUDA_VISIBLE_DEVICES");
    scenario("a usual device", "check", usual);
    scenario("no device", "devices=0", [] { CHECK(open_device() == 100); });
    scenario("a short memory", "memory=1000", memory);
    scenario("graphs", "", graphs);
    scenario("a launch that fails", "launch_fails_at=2", fails_once);
    scenario("a lost device", "lost_at=2,lost_with=719", is_lost);
    scenario("a kernel that does nothing", "garbage=fill", garbage);
    scenario("a driver too old", "driver=12040", [] {
        int version;
        void* module;
        CHECK(open_device() == 0 && cuDriverGetVersion(&version) == 0 && version == 12040);
        CHECK(cuModuleLoadData(&module, "") == 222);
    });
    scenario("a device too old", "capability=7.5", [] {
        int major, minor;
        void* module;
        CHECK(open_device() == 0 && cuDeviceGetAttribute(&major, 75, 0) == 0 && cuDeviceGetAttribute(&minor, 76, 0) == 0);
        CHECK(major == 7 && minor == 5 && cuModuleLoadData(&module, "") == 209);
    });
    scenario("a write outside is found", "check", [] { writes_outside(11); }, true);
    scenario("and, with guard pages, becomes an error", "guard", [] {
        CHECK(open_device() == 0);
        CHECK(fill(allocate(4096), 1.0f, 1025) == 700);
    });
    scenario("visible devices", "devices=3", [] { visible("2,0", 0, 2); });
    scenario("up to the first that is not there", "devices=3", [] { visible("1,7,0", 0, 1); });
    scenario("none visible", "devices=3", [] { visible("", 100, 0); });
}
