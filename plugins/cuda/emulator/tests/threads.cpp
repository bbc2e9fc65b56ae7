// Tests of the runtime: shuffles, barriers, order, and what happens to kernels that are wrong.
#include "sconce_cuda.h"
#include "testing.h"
#include "check.h"

static void shuffles() {
    sconce::Buffer<int> out(64 * 8);
    sconce::launch("shuffles", {1, 1, 1}, {64, 1, 1}, 0, out.data());
    for (int thread = 0; thread < 64; thread++) {
        const int lane = thread % 32, *mine = out.data() + thread * 8;
        CHECK(mine[0] == (lane ^ 5));
        CHECK(mine[1] == (lane + 3 < 32 ? lane + 3 : lane));
        CHECK(mine[2] == (lane % 8 >= 3 ? lane - 3 : lane));
        CHECK(mine[3] == (lane & 16) + 2);
        CHECK(mine[4] == 0x49249249);
        CHECK(mine[5] == 31 * 32 / 2);
        CHECK(mine[6] == (lane < 16 ? lane ^ 1 : lane ^ 2));
        CHECK(mine[7] == 1);
    }
}

static void sums(unsigned threads, int used) {
    sconce::Buffer<float> x(size_t(used) * 3), out(3);
    for (size_t i = 0; i < x.size(); i++) x[i] = float(i % 11);
    const float* from = x.data();
    sconce::launch("tree_sum", {3, 1, 1}, {threads, 1, 1}, size_t(used) * sizeof(float), from, out.data(), used);
    for (int block = 0; block < 3; block++) {
        float expected = 0;
        for (int i = 0; i < used; i++) expected += x[size_t(block * used + i)];
        CHECK(out[size_t(block)] == expected);
    }
}

// Whether warp 0 hears what warp 1 wrote in the same launch.
static bool handed_over(bool with_barrier) {
    sconce::Buffer<int> out(32);
    sconce::launch("handed_over", {1, 1, 1}, {64, 1, 1}, 0, out.data(), int(with_barrier));
    return out[7] == 7 + 100 * (int(with_barrier) + 1);
}

static void order() {
    CHECK(handed_over(true));
    CHECK(!handed_over(false));
    sconce::launch_options.reverse = true;
    CHECK(handed_over(true));
    CHECK(handed_over(false));  // which is why one runs kernels in both orders
}

static void halves() {
    sconce::Buffer<__half> x{__half(1.5f), __half(-2.0f)}, y(2);
    sconce::launch("pairs", {1, 1, 1}, {1, 1, 1}, 0, static_cast<const __half*>(x.data()), y.data());
    CHECK(float(y[0]) == 2.75f && float(y[1]) == 4.5f);
    for (int i = 0; i < 65536; i++) {
        const __half h = __ushort_as_half(static_cast<unsigned short>(i));
        CHECK(std::isnan(float(h)) || __half(float(h)).__x == i);
        const __nv_bfloat16 b = __ushort_as_bfloat16(static_cast<unsigned short>(i));
        CHECK(std::isnan(float(b)) || __nv_bfloat16(float(b)).__x == i);
    }
    CHECK(__half(65519.0f).__x == 0x7BFF && __half(65520.0f).__x == 0x7C00);
    CHECK(__half(1.00048828125f).__x == 0x3C00 && __half(1.00146484375f).__x == 0x3C02);  // ties go to even
    for (int i = 0; i < 256; i++) {
        const float value = sconce::e4m3_value(static_cast<unsigned char>(i));
        CHECK(std::isnan(value) || sconce::e4m3_bits(value) == i);
    }
    CHECK(sconce::e4m3_bits(1.0625f) == 0x38 && sconce::e4m3_bits(1.1875f) == 0x3A && sconce::e4m3_bits(1e9f) == 0x7E);
}

// A launch that fails leaves the runtime fit for the next one.
static void failed() {
    int value = 2;
    void* arguments[] = {&value};
    CHECK(sconce::run({sconce::find_kernel("asserts"), {4, 1, 1}, {64, 1, 1}, 0, arguments}) == 710);
    sums(64, 64);
}

int main() {
    scenario("shuffles", "", shuffles);
    scenario("sums over barriers", "", [] { sums(1024, 1024), sums(32, 32), sums(1, 1), sums(256, 128); });
    scenario("the same from the last thread to the first", "", [] {
        sconce::launch_options.reverse = true;
        shuffles(), sums(1024, 1024), sums(1, 1), sums(256, 128);
    });
    scenario("order", "", order);
    scenario("sixteen and eight bit floats", "", halves);
    scenario("an assertion", "", failed);
    scenario("a deadlock is reported", "", [] { sconce::launch("stuck", {1, 1, 1}, {32, 1, 1}, 0, 1); }, true);
    scenario("dynamic shared memory is fenced", "", [] { sconce::launch("overruns", {1, 1, 1}, {32, 1, 1}, 8, 1); }, true);
}
