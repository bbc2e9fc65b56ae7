// For small C++ programs that try kernels without a driver: buffers that notice writes beyond them, and a launch by name.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "launch.h"

namespace sconce {

// `count` values filled with 0xFF bytes (NaN, for floats) between guards that the destructor looks at.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t count) : count_(count), bytes_(count * sizeof(T) + 2 * kGuard, 0xFF) {
        std::memset(bytes_.data(), 0xA5, kGuard);
        std::memset(bytes_.data() + kGuard + count * sizeof(T), 0xA5, kGuard);
    }
    Buffer(std::initializer_list<T> values) : Buffer(values.size()) {
        size_t i = 0;
        for (const T& value : values) (*this)[i++] = value;
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        for (size_t i = 0; i < kGuard; i++)
            if (bytes_[i] != 0xA5 || bytes_[bytes_.size() - 1 - i] != 0xA5) {
                std::fprintf(stderr, "a kernel wrote outside a buffer of %zu values\n", count_);
                std::abort();
            }
    }
    T* data() { return reinterpret_cast<T*>(bytes_.data() + kGuard); }
    T& operator[](size_t i) { return data()[i]; }
    size_t size() const { return count_; }

  private:
    static constexpr size_t kGuard = 256;
    size_t count_;
    std::vector<unsigned char> bytes_;
};

// Launches a kernel by name. The arguments must have exactly the kernel's types: `size_t(3)`, not `3`, for a size_t.
template <class... Arguments>
void launch(const char* name, Extent grid, Extent block, size_t shared_bytes, Arguments... arguments) {
    const Kernel* kernel = find_kernel(name);
    const unsigned bytes[] = {unsigned(sizeof(Arguments))..., 0};
    if (!kernel || kernel->arguments != sizeof...(Arguments) ||
        std::memcmp(bytes, kernel->argument_bytes, sizeof...(Arguments) * sizeof(unsigned)) != 0) {
        std::fprintf(stderr, "no kernel `%s` with %zu arguments of these sizes\n", name, sizeof...(Arguments));
        std::abort();
    }
    void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
    if (int error = run({kernel, grid, block, shared_bytes, pointers})) {
        std::fprintf(stderr, "kernel `%s` failed with CUDA error %d\n", name, error);
        std::abort();
    }
}

}  // namespace sconce
