// An emulated cuRAND: seeded uniform and normal numbers, not the same ones as the real library's.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>

#define API extern "C" __attribute__((visibility("default")))

API int sconce_emulated_enqueue(void* stream, const char* name, void (*run)(const void* data), const void* data, size_t bytes);
API int cuCtxGetDevice(int* device);

namespace {

enum Status { kSuccess = 0, kLaunchFailure = 201, kInternalError = 999 };

struct Generator {
    std::mt19937_64 numbers{0};
    void* stream = nullptr;
};

template <class Value>
struct Fill {
    Generator* generator;
    Value* out;
    size_t count;
    double mean, deviation;  // a deviation of 0 stands for uniform in (0, 1]
};

template <class Value>
void run(const void* data) {
    const auto& fill = *static_cast<const Fill<Value>*>(data);
    std::normal_distribution<double> normal(fill.mean, fill.deviation > 0 ? fill.deviation : 1.0);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    auto& numbers = fill.generator->numbers;
    for (size_t i = 0; i < fill.count; i++)
        fill.out[i] = static_cast<Value>(fill.deviation > 0 ? normal(numbers) : 1.0 - uniform(numbers));
}

template <class Value>
int enqueue(Generator* generator, Value* out, size_t count, double mean, double deviation) {
    const Fill<Value> fill{generator, out, count, mean, deviation};
    return sconce_emulated_enqueue(generator->stream, "random", run<Value>, &fill, sizeof(fill)) ? kLaunchFailure : kSuccess;
}

Status when_alive() {
    int device;
    return cuCtxGetDevice(&device) ? kInternalError : kSuccess;
}

}  // namespace

API int curandCreateGenerator(Generator** generator, int) {
    if (when_alive()) return kInternalError;
    *generator = new Generator;
    return kSuccess;
}
API int curandDestroyGenerator(Generator* generator) {
    delete generator;
    return when_alive();
}
API int curandSetPseudoRandomGeneratorSeed(Generator* generator, unsigned long long seed) {
    return generator->numbers.seed(seed), kSuccess;
}
API int curandSetGeneratorOffset(Generator* generator, unsigned long long offset) {
    return generator->numbers.discard(offset), kSuccess;
}
API int curandSetStream(Generator* generator, void* stream) { return generator->stream = stream, kSuccess; }
API int curandGenerateUniform(Generator* g, float* out, size_t count) { return enqueue(g, out, count, 0, 0); }
API int curandGenerateUniformDouble(Generator* g, double* out, size_t count) { return enqueue(g, out, count, 0, 0); }
API int curandGenerateNormal(Generator* g, float* out, size_t count, float mean, float deviation) {
    return enqueue(g, out, count, mean, deviation);
}
API int curandGenerateNormalDouble(Generator* g, double* out, size_t count, double mean, double deviation) {
    return enqueue(g, out, count, mean, deviation);
}
