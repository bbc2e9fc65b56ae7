// Modules, functions and launches. A module's code is ignored: kernels are found by name among those compiled in.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "../runtime/launch.h"
#include "driver.h"

namespace sconce {

namespace {

struct Module {
    std::string text;  // the PTX, if it names entries: a function must be among them
};

struct Function {
    const Kernel* kernel;
    int dynamic_shared = 49152;  // the most that may be asked for
};

const size_t kSharedOptIn = 232448;

Result load(void** module, const char* text) {
    const Options& options = state().options;
    if (options.driver_version < 13000) return kUnsupportedPtxVersion;
    if (options.capability_major < 8) return kNoBinaryForGpu;
    const bool names_entries = std::strstr(text, ".entry") != nullptr;
    *module = new Module{names_entries ? text : ""};
    return kSuccess;
}

bool names(const Module& module, const char* function) {
    return module.text.empty() || module.text.find(std::string(".entry ") + function + "(") != std::string::npos;
}

bool fits(const Function& function, const Extent& grid, const Extent& block, size_t shared) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535 &&
           threads > 0 && threads <= 1024 && block.z <= 64 && shared <= size_t(function.dynamic_shared);
}

Result launch_now(const Kernel* kernel, Extent grid, Extent block, size_t shared, void** arguments) {
    bool skip;
    if (Result fault = begin_launch(kernel->name, &skip)) return fault;
    if (skip) return kSuccess;
    return end_launch(kernel->name, run({kernel, grid, block, shared, arguments}));
}

// The values of a captured launch, which outlive the caller's.
struct Arguments {
    std::vector<std::vector<unsigned char>> values;
    std::vector<void*> pointers;
    Arguments(const Kernel* kernel, void** from) : values(kernel->arguments) {
        for (unsigned i = 0; i < kernel->arguments; i++) {
            const auto* bytes = static_cast<const unsigned char*>(from[i]);
            values[i].assign(bytes, bytes + kernel->argument_bytes[i]);
            pointers.push_back(values[i].data());
        }
    }
};

Result launch(const Function* function, Extent grid, Extent block, size_t shared, void* stream, void** arguments) {
    if (!function) return kInvalidHandle;
    if (!fits(*function, grid, block, shared)) return kInvalidValue;
    const Kernel* kernel = function->kernel;
    if (!is_capturing(stream)) return launch_now(kernel, grid, block, shared, arguments);
    auto kept = std::make_shared<Arguments>(kernel, arguments);
    capture(stream, [=] { return launch_now(kernel, grid, block, shared, kept->pointers.data()); });
    return kSuccess;
}

}  // namespace

Result begin_launch(const char* name, bool* skip) {
    const Options& options = state().options;
    const uint64_t number = ++state().launches;
    if (options.launches) std::fprintf(stderr, "emulated GPU: launch %llu: %s\n", (unsigned long long)number, name);
    *skip = !options.garbage.empty() && std::strstr(name, options.garbage.c_str());
    if (number == options.launch_fails_at) return kLaunchOutOfResources;
    if (!options.launch_fails_when.empty() && unlink(options.launch_fails_when.c_str()) == 0) return kLaunchOutOfResources;
    const bool lost = (options.lost_at && number >= options.lost_at) ||
                      (!options.lost_when.empty() && access(options.lost_when.c_str(), F_OK) == 0);
    if (lost) state().lost = options.lost_with;
    return state().lost;
}

Result end_launch(const char* name, Result result) {
    if (result) state().lost = result;
    if (state().options.check) check_guards(name);
    return result;
}

}  // namespace sconce

using namespace sconce;

API int cuModuleLoadData(void** module, const void* image) {
    return call_in_context([&] { return load(module, static_cast<const char*>(image)); });
}
API int cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) { return cuModuleLoadData(module, image); }
API int cuModuleUnload(void* module) {
    return call([&] { return delete static_cast<Module*>(module), kSuccess; });
}
// Functions are kept for the life of the process: handles may outlive their module here, which they may not on a device.
API int cuModuleGetFunction(void** function, void* module, const char* name) {
    return call_in_context([&] {
        const Kernel* kernel = find_kernel(name);
        if (!kernel || !names(*static_cast<Module*>(module), name)) return Result(kNotFound);
        *function = new Function{kernel};
        return Result(kSuccess);
    });
}
API int cuModuleGetGlobal_v2(uint64_t*, size_t*, void*, const char*) {
    return call_in_context([] { return kNotFound; });
}

API int cuFuncSetAttribute(void* function, int which, int value) {
    return call_in_context([&] {
        if (which != 8) return Result(kSuccess);  // 8: the most dynamic shared memory
        if (value < 0 || size_t(value) > kSharedOptIn) return Result(kInvalidValue);
        static_cast<Function*>(function)->dynamic_shared = value;
        return Result(kSuccess);
    });
}
API int cuFuncGetAttribute(int* value, int which, void* function) {
    return call_in_context([&] {
        const int known[] = {1024, 0, 0, 0, 32, 80, 80, 0, static_cast<Function*>(function)->dynamic_shared};
        *value = which >= 0 && which <= 8 ? known[which] : 0;
        return kSuccess;
    });
}
API int cuFuncSetCacheConfig(void*, int) {
    return call_in_context([] { return kSuccess; });
}
API int cuFuncGetName(const char** name, void* function) {
    return call_in_context([&] { return *name = static_cast<Function*>(function)->kernel->name, kSuccess; });
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int block_size, size_t shared) {
    return call_in_context([&] {
        *blocks = block_size > 0 ? std::min(32, 2048 / block_size) : 0;
        if (shared > 0) *blocks = std::min(*blocks, int(233472 / (shared + 1024)));
        return kSuccess;
    });
}
API int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* f, int block_size, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, block_size, shared);
}
API int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void*, void*, size_t, int limit) {
    return call_in_context([&] {
        *block = limit > 0 && limit < 1024 ? limit : 1024;
        *grid = 16 * (2048 / *block);
        return kSuccess;
    });
}
API int cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, void* f, void* bytes, size_t shared, int limit,
                                                  unsigned) {
    return cuOccupancyMaxPotentialBlockSize(grid, block, f, bytes, shared, limit);
}
API int cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, void*, int blocks, int) {
    return call_in_context([&] { return *bytes = 233472 / size_t(blocks > 0 ? blocks : 1) - 1024, kSuccess; });
}

API int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void* stream, void** arguments, void**) {
    return call_in_context([&] {
        return launch(static_cast<Function*>(function), {gx, gy, gz}, {bx, by, bz}, shared, stream, arguments);
    });
}
API int cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**) {
    return call_in_context([] { return kNotSupported; });  // blocks run one after the other: none can wait for another
}
struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared;
    void* stream;
};
API int cuLaunchKernelEx(const LaunchConfig* c, void* function, void** arguments, void** extra) {
    return cuLaunchKernel(function, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, arguments, extra);
}

API int sconce_emulated_enqueue(void* stream, const char* name, void (*run)(const void*), const void* data, size_t bytes) {
    return call_in_context([&] {
        auto now = [=](const void* with) {
            bool skip;
            if (Result fault = begin_launch(name, &skip)) return fault;
            if (!skip) run(with);
            return end_launch(name, kSuccess);
        };
        if (!is_capturing(stream)) return now(data);
        const auto* from = static_cast<const unsigned char*>(data);
        auto kept = std::make_shared<std::vector<unsigned char>>(from, from + bytes);
        capture(stream, [=] { return now(kept->data()); });
        return Result(kSuccess);
    });
}
