// Initialisation, devices and their attributes, contexts.
#include <dlfcn.h>

#include <cstring>
#include <map>

#include "driver.h"

namespace sconce {

State& state() {
    static State* the = new State;  // never destroyed: a thread may call while the process exits
    return *the;
}

Context*& current_context() {
    static thread_local Context* context = nullptr;
    return context;
}

static std::vector<Context>& primary_contexts() {
    static auto* the = new std::vector<Context>(64);
    return *the;
}

static std::vector<Context*>& context_stack() {
    static thread_local std::vector<Context*> stack;
    return stack;
}

static bool is_device(int device) { return device >= 0 && size_t(device) < state().options.visible.size(); }

// Those that code asks for; all others answer 0.
static int attribute(int which) {
    const Options& options = state().options;
    static const std::map<int, int> fixed = {
        {1, 1024},       {2, 1024},       {3, 1024},      {4, 64},        {5, 2147483647}, {6, 65535},      {7, 65535},
        {8, 49152},      {9, 65536},      {10, 32},       {11, 2147483647}, {12, 65536},   {13, 1980000},   {14, 512},
        {15, 1},         {16, 16},        {19, 1},        {31, 1},        {36, 3201000},   {37, 6144},      {38, 62914560},
        {39, 2048},      {40, 3},         {41, 1},        {78, 1},        {79, 1},         {80, 1},         {81, 233472},
        {82, 65536},     {83, 1},         {89, 1},        {90, 1},        {95, 1},         {97, 232448},    {99, 1},
        {106, 32},       {111, 1024},     {115, 1},
    };
    if (which == 75) return options.capability_major;
    if (which == 76) return options.capability_minor;
    auto found = fixed.find(which);
    return found == fixed.end() ? 0 : found->second;
}

// Calls about devices answer also when the device is lost.
template <class Body>
static Result about_devices(Body body) {
    std::lock_guard<std::recursive_mutex> lock(state().lock);
    return state().initialized ? body() : Result(kNotInitialized);
}

template <class Body>
static Result about_device(int device, Body body) {
    return about_devices([&] { return is_device(device) ? body() : Result(kInvalidDevice); });
}

static Result new_context(Context** out, int device) {
    if (!is_device(device)) return kInvalidDevice;
    *out = new Context{device};
    context_stack().push_back(*out);
    current_context() = *out;
    return kSuccess;
}

}  // namespace sconce

using namespace sconce;

API int cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> lock(state().lock);
    if (state().initialized) return kSuccess;
    state().options = read_options();
    if (state().options.visible.empty()) return kNoDevice;
    if (state().options.guard) catch_bad_accesses();
    state().initialized = true;
    return kSuccess;
}

API int cuDriverGetVersion(int* version) {
    std::lock_guard<std::recursive_mutex> lock(state().lock);
    *version = (state().initialized ? state().options : read_options()).driver_version;
    return kSuccess;
}

API int cuDeviceGetCount(int* count) {
    return about_devices([&] { return *count = int(state().options.visible.size()), kSuccess; });
}

API int cuDeviceGet(int* device, int ordinal) {
    return about_device(ordinal, [&] { return *device = ordinal, kSuccess; });
}

API int cuDeviceGetName(char* name, int length, int device) {
    return about_device(device, [&] {
        std::strncpy(name, state().options.name.c_str(), size_t(length));
        name[length - 1] = 0;
        return kSuccess;
    });
}

API int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    return about_device(device, [&] {
        std::memset(uuid, 0, 16);
        std::memcpy(uuid, "sconce", 6);
        uuid[15] = static_cast<unsigned char>(state().options.visible[size_t(device)]);
        return kSuccess;
    });
}
API int cuDeviceGetUuid(unsigned char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

API int cuDeviceGetAttribute(int* value, int which, int device) {
    return about_device(device, [&] {
        *value = which == 33 ? 1 + state().options.visible[size_t(device)] : attribute(which);  // 33: the PCI bus
        return kSuccess;
    });
}

API int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    return about_device(device, [&] { return *bytes = state().options.memory, kSuccess; });
}

API int cuDeviceGetPCIBusId(char* text, int length, int device) {
    return about_device(device, [&] {
        std::snprintf(text, size_t(length), "0000:%02x:00.0", 1 + state().options.visible[size_t(device)]);
        return kSuccess;
    });
}

API int cuDeviceCanAccessPeer(int* can, int, int) {
    return about_devices([&] { return *can = 0, kSuccess; });
}

API int cuDevicePrimaryCtxRetain(Context** context, int device) {
    return about_device(device, [&] {
        if (state().lost) return state().lost;
        *context = &primary_contexts()[size_t(device)];
        (*context)->device = device;
        return Result(kSuccess);
    });
}
API int cuDevicePrimaryCtxRelease_v2(int device) {
    return about_device(device, [] { return state().lost; });
}
API int cuDevicePrimaryCtxReset_v2(int device) {
    return about_device(device, [] { return state().lost; });
}
API int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) {
    return about_device(device, [] { return kSuccess; });
}
API int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    return about_device(device, [&] { return *flags = 0, *active = 1, kSuccess; });
}

API int cuCtxCreate_v2(Context** out, unsigned, int device) {
    return call([&] { return new_context(out, device); });
}
API int cuCtxCreate_v4(Context** out, void*, unsigned, int device) {
    return call([&] { return new_context(out, device); });
}
API int cuCtxDestroy_v2(Context* context) {
    return call([&] {
        if (current_context() == context) current_context() = nullptr;
        if (context < &primary_contexts().front() || context > &primary_contexts().back()) delete context;
        return kSuccess;
    });
}
// A lost device does not keep a thread from binding its context: the next call that uses it answers.
API int cuCtxSetCurrent(Context* context) {
    return about_devices([&] { return current_context() = context, kSuccess; });
}
API int cuCtxGetCurrent(Context** context) {
    return about_devices([&] { return *context = current_context(), kSuccess; });
}
API int cuCtxPushCurrent_v2(Context* context) {
    return about_devices([&] {
        context_stack().push_back(current_context());
        current_context() = context;
        return kSuccess;
    });
}
API int cuCtxPopCurrent_v2(Context** context) {
    return about_devices([&] {
        if (context) *context = current_context();
        current_context() = nullptr;
        if (!context_stack().empty()) {
            current_context() = context_stack().back();
            context_stack().pop_back();
        }
        return kSuccess;
    });
}
API int cuCtxGetDevice(int* device) {
    return call_in_context([&] { return *device = current_context()->device, kSuccess; });
}
API int cuCtxGetFlags(unsigned* flags) {
    return call_in_context([&] { return *flags = 0, kSuccess; });
}
API int cuCtxSetFlags(unsigned) {
    return call_in_context([] { return kSuccess; });
}
API int cuCtxGetLimit(size_t* value, int) {
    return call_in_context([&] { return *value = 0, kSuccess; });
}
API int cuCtxSetLimit(int, size_t) {
    return call_in_context([] { return kSuccess; });
}
API int cuCtxGetCacheConfig(int* config) {
    return call_in_context([&] { return *config = 0, kSuccess; });
}
API int cuCtxSetCacheConfig(int) {
    return call_in_context([] { return kSuccess; });
}
API int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call_in_context([&] { return *least = 0, *greatest = -5, kSuccess; });
}
API int cuCtxGetApiVersion(Context*, unsigned* version) {
    return about_devices([&] { return *version = 3020, kSuccess; });
}
API int cuCtxSynchronize() {
    return call_waiting([] { return check_guards(nullptr), kSuccess; });
}

// Newer names first: `cuMemAlloc` is asked for, `cuMemAlloc_v2` is what there is.
API int cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    for (const char* suffix : {"_v2", ""}) {
        *function = dlsym(RTLD_DEFAULT, (std::string(symbol) + suffix).c_str());
        if (!*function) continue;
        if (status) *status = 0;
        return kSuccess;
    }
    if (status) *status = 1;
    return kNotFound;
}
API int cuGetProcAddress(const char* symbol, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
