// Copies and fills. Ranges of device memory are checked, as the driver does.
#include <cstring>

#include "driver.h"

namespace sconce {

static void* host(uint64_t pointer) { return reinterpret_cast<void*>(pointer); }

// What a copy touches on the device must lie in one allocation.
static Result copy(void* stream, void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    if (bytes == 0) return kSuccess;
    if (to_device && !is_device_range(reinterpret_cast<uint64_t>(to), bytes)) return kInvalidValue;
    if (from_device && !is_device_range(reinterpret_cast<uint64_t>(from), bytes)) return kInvalidValue;
    return enqueue(stream, [=] {
        if (from_device && !to_device) check_guards(nullptr);
        std::memmove(to, from, bytes);
        return Result(kSuccess);
    });
}

template <class Value>
static Result fill(void* stream, uint64_t to, Value value, size_t count) {
    if (count == 0) return kSuccess;
    if (!is_device_range(to, count * sizeof(Value))) return kInvalidValue;
    return enqueue(stream, [=] {
        Value* at = static_cast<Value*>(host(to));
        for (size_t i = 0; i < count; i++) at[i] = value;
        return Result(kSuccess);
    });
}

}  // namespace sconce

using namespace sconce;

API int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    return call_waiting([&] { return copy(nullptr, host(to), from, bytes, true, false); });
}
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    return call_in_context([&] { return copy(stream, host(to), from, bytes, true, false); });
}
API int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    return call_waiting([&] { return copy(nullptr, to, host(from), bytes, false, true); });
}
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    return call_in_context([&] { return copy(stream, to, host(from), bytes, false, true); });
}
API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
    return call_waiting([&] { return copy(nullptr, host(to), host(from), bytes, true, true); });
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    return call_in_context([&] { return copy(stream, host(to), host(from), bytes, true, true); });
}
API int cuMemcpyPeerAsync(uint64_t to, void*, uint64_t from, void*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
API int cuMemcpy(uint64_t to, uint64_t from, size_t bytes) {
    return call_waiting([&] { return copy(nullptr, host(to), host(from), bytes, false, false); });
}
API int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    return call_in_context([&] { return copy(stream, host(to), host(from), bytes, false, false); });
}

API int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t count) {
    return call_waiting([&] { return fill(nullptr, to, value, count); });
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, void* stream) {
    return call_in_context([&] { return fill(stream, to, value, count); });
}
API int cuMemsetD16_v2(uint64_t to, unsigned short value, size_t count) {
    return call_waiting([&] { return fill(nullptr, to, value, count); });
}
API int cuMemsetD16Async(uint64_t to, unsigned short value, size_t count, void* stream) {
    return call_in_context([&] { return fill(stream, to, value, count); });
}
API int cuMemsetD32_v2(uint64_t to, unsigned value, size_t count) {
    return call_waiting([&] { return fill(nullptr, to, value, count); });
}
API int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void* stream) {
    return call_in_context([&] { return fill(stream, to, value, count); });
}
