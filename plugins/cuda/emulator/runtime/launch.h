// Running a kernel over its grid, and the table of the kernels that were compiled in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace sconce {

struct Extent {
    unsigned x, y, z;
};

struct Kernel {
    const char* name;
    void (*body)(void** arguments);  // runs one thread
    unsigned arguments;
    const unsigned* argument_bytes;
};

struct Launch {
    const Kernel* kernel;
    Extent grid, block;
    size_t shared_bytes;
    void** arguments;
};

struct LaunchOptions {
    bool reverse = false;  // threads and blocks from the last to the first: shows what a missing barrier hides
};
extern LaunchOptions launch_options;

// Runs every thread of every block, on this host thread. Returns 0, or the CUDA error that a kernel failed with.
// One launch at a time: the caller holds a lock.
int run(const Launch& launch);

// The kernel that runs now, for messages; null when none does.
const Launch* running();

// Called from a signal handler for a bad access inside a kernel: ends the launch.
[[noreturn]] void abandon_launch(int cuda_error);

const Kernel* find_kernel(const char* name);

// Compiled kernels add themselves: one of these per .cu file.
struct KernelTable {
    KernelTable(const char* source, std::initializer_list<Kernel> kernels);
};

}  // namespace sconce
