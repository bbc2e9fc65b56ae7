// The names and sentences of errors, and what functions answer that are not emulated.
#include <cstdio>

#include "driver.h"

namespace {

struct Error {
    int code;
    const char* name;
    const char* text;
};

const Error kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Error* find(int code) {
    for (const Error& error : kErrors)
        if (error.code == code) return &error;
    return nullptr;
}

}  // namespace

API int cuGetErrorName(int code, const char** name) {
    const Error* error = find(code);
    *name = error ? error->name : nullptr;
    return error ? 0 : sconce::kInvalidValue;
}

API int cuGetErrorString(int code, const char** text) {
    const Error* error = find(code);
    *text = error ? error->text : nullptr;
    return error ? 0 : sconce::kInvalidValue;
}

// The generated stubs call this with their name; so do those of the other libraries.
API int sconce_emulated_unsupported(const char* name, int answer) {
    if (sconce::read_options().trace) std::fprintf(stderr, "emulated GPU: %s is not emulated\n", name);
    return answer;
}
