// Every weight is read once: it is added to the sum of its row, in a register, and to the sum of its column, in the cache.

#include <algorithm>
#include <cstdint>

#include "threads.hpp"

namespace {

constexpr long BLOCK = 32;  // channels whose row sums stay in registers

template <class T, long WIDTH> void tile(const T* w, T* rows, T* columns, long outputs, long inputs, long channels, long width) {
    const long n = WIDTH ? WIDTH : width;
    for (long i = 0; i < inputs; i++)
        for (long c = 0; c < n; c++) columns[i * channels + c] = 0;
    for (long o = 0; o < outputs; o++) {
        T sums[BLOCK] = {};
        for (long i = 0; i < inputs; i++) {
            const T* __restrict here = w + (o * inputs + i) * channels;
            T* __restrict column = columns + i * channels;
            for (long c = 0; c < n; c++) {
                const T value = here[c];
                sums[c] += value;
                column[c] += value;
            }
        }
        for (long c = 0; c < n; c++) rows[o * channels + c] = sums[c];
    }
}

template <class T> void run(const T* w, T* rows, T* columns, long batch, long outputs, long inputs, long channels, long threads) {
    const long blocks = (channels + BLOCK - 1) / BLOCK, tiles = batch * blocks;
    auto work = [=](long begin, long end) {
        for (long t = begin; t < end; t++) {
            const long b = t / blocks, c = t % blocks * BLOCK, width = std::min(BLOCK, channels - c);
            auto call = width == BLOCK ? tile<T, BLOCK> : tile<T, 0>;
            call(w + b * outputs * inputs * channels + c, rows + b * outputs * channels + c, columns + b * inputs * channels + c, outputs, inputs, channels, width);
        }
    };
    divide(tiles, threads, work);
}

}  // namespace

extern "C" {
void forward_4(const float* w, float* rows, float* columns, int64_t batch, int64_t outputs, int64_t inputs, int64_t channels, int64_t threads) { run(w, rows, columns, batch, outputs, inputs, channels, threads); }
void forward_8(const double* w, double* rows, double* columns, int64_t batch, int64_t outputs, int64_t inputs, int64_t channels, int64_t threads) { run(w, rows, columns, batch, outputs, inputs, channels, threads); }
}
