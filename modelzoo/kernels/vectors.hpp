// Vectors of floats, a product of small matrices in registers, and functions without a library call; for `compiled.cpp`.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {


#ifdef __AVX512F__
constexpr long LANES = 16;
#else
constexpr long LANES = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

inline Vector load(const float* p) { Vector v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
inline Vector all(float x) { return x - Vector{}; }
inline Integers bits(Vector x) { return (Integers)x; }
inline Vector floats(Integers x) { return (Vector)x; }
inline Vector magnitude(Vector x) { return floats(bits(x) & 0x7fffffff); }
inline long padded(long n) { return (n + LANES - 1) / LANES * LANES; }
inline bool any(Integers mask) {
    int64_t words[sizeof mask / 8], either = 0;
    std::memcpy(words, &mask, sizeof mask);
    for (int64_t word : words) either |= word;
    return either != 0;
}

constexpr float ROUND = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the last bits

// e^x of N vectors side by side, so that one's latency hides behind the others'; x within [least, most], NaN stays.
template <int N>
inline void exponentials(Vector* x, float least, float most) {
    Vector n[N], p[N];
    for (int i = 0; i < N; i++) x[i] = x[i] < least ? all(least) : x[i];
    for (int i = 0; i < N; i++) x[i] = x[i] > most ? all(most) : x[i];
    for (int i = 0; i < N; i++) n[i] = x[i] * 1.44269504f + ROUND;
    for (int i = 0; i < N; i++) x[i] = x[i] - (n[i] - ROUND) * 0.693359375f - (n[i] - ROUND) * -2.12194440e-4f;
    for (int i = 0; i < N; i++) p[i] = 8.3334519073e-3f + x[i] * 1.3981999507e-3f;
    for (float coefficient : {4.1665795894e-2f, 1.6666665459e-1f, 0.5f, 1.0f, 1.0f})
        for (int i = 0; i < N; i++) p[i] = coefficient + x[i] * p[i];
    for (int i = 0; i < N; i++) x[i] = p[i] * floats((bits(n[i]) - bits(all(ROUND)) + 127) << 23);
}

inline Vector exponential(Vector x) {
    exponentials<1>(&x, -87.0f, 88.0f);
    return x;
}

inline Vector signed_as(Vector x, Vector sign) { return floats(bits(x) | (bits(sign) & (int32_t)0x80000000)); }

inline Vector hyperbolic_tangent(Vector z) {
    const Vector a = magnitude(z), s = z * z;
    const Vector near = z + z * s * (-3.33332819422e-1f + s * (1.33314422036e-1f + s * (-5.37397155531e-2f + s * (2.06390887954e-2f + s * -5.70498872745e-3f))));
    return a < 0.625f ? near : signed_as(1.0f - 2.0f / (exponential(2.0f * a) + 1.0f), z);
}

// A[r, k] is a[r · a_row + k · a_step]; B and C have rows of vectors; every row starts from its row of `from`.
struct Product {
    const float* a;
    long a_row, a_step;
    const float* b;
    long b_row, depth;
    float* c;
    long c_row;
    const float* from;
    long from_row;
};

template <int ROWS, int VECTORS>
inline void block(const Product& p, long row, long lane) {
    Vector sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) sum[r][v] = load(p.from + (row + r) * p.from_row + lane + v * LANES);
    const float *a = p.a + row * p.a_row, *b = p.b + lane;
    for (long k = 0; k < p.depth; k++, a += p.a_step, b += p.b_row)
        for (int r = 0; r < ROWS; r++) {
            const Vector broadcast = all(a[r * p.a_row]);
            for (int v = 0; v < VECTORS; v++) sum[r][v] += broadcast * load(b + v * LANES);
        }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) store(p.c + (row + r) * p.c_row + lane + v * LANES, sum[r][v]);
}

template <int ROWS, int VECTORS>
inline void rest(const Product& p, long row, long lane, long rows) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) block<ROWS, VECTORS>(p, row, lane);
        else rest<ROWS - 1, VECTORS>(p, row, lane, rows);
    }
}

template <int VECTORS>
void panel(const Product& p, long rows, long lane) {
    constexpr int ROWS = VECTORS == 4 ? 3 : VECTORS == 3 ? 4 : VECTORS == 2 ? 6 : 8;  // 12 sums fill 16 registers
    long row = 0;
    for (; row + ROWS <= rows; row += ROWS) block<ROWS, VECTORS>(p, row, lane);
    rest<ROWS - 1, VECTORS>(p, row, lane, rows - row);
}

void multiply(const Product& p, long rows, long lanes) {
    long lane = 0;
    for (; lane + 4 * LANES <= lanes; lane += 4 * LANES) panel<4>(p, rows, lane);
    if (lanes - lane == 3 * LANES) panel<3>(p, rows, lane);
    if (lanes - lane == 2 * LANES) panel<2>(p, rows, lane);
    if (lanes - lane == LANES) panel<1>(p, rows, lane);
}

struct Floats {  // zeroed, aligned to a cache line
    float* data;
    explicit Floats(long count) : data(static_cast<float*>(std::aligned_alloc(64, (count * 4 + 127) / 64 * 64))) {
        std::memset(data, 0, (count * 4 + 127) / 64 * 64);
    }
    ~Floats() { std::free(data); }
    Floats(const Floats&) = delete;
    operator float*() { return data; }
};

}  // namespace
