// Every entry once: a row's vector stays in registers, the columns' vectors in the cache.

#include <algorithm>
#include <cstdint>

#include "threads.hpp"

namespace {

constexpr long BLOCK = 32;  // channels of one register tile

template <class T, long WIDTH> void tile(const T* w, const T* row, const T* columns, T* result, long inputs, long channels, long width) {
    const long n = WIDTH ? WIDTH : width;
    T own[BLOCK];
    for (long c = 0; c < n; c++) own[c] = row[c];
    for (long i = 0; i < inputs; i++) {
        const T* __restrict column = columns + i * channels;
        T* __restrict out = result + i * channels;
        if (w) {
            const T* __restrict here = w + i * channels;
            for (long c = 0; c < n; c++) out[c] = here[c] + (own[c] + column[c]);
        } else
            for (long c = 0; c < n; c++) out[c] = own[c] + column[c];
    }
}

template <class T> void run(const T* w, const T* rows, const T* columns, T* result, long batch, long outputs, long inputs, long channels, long threads) {
    const long all = batch * outputs;
    auto work = [=](long begin, long end) {
        for (long r = begin; r < end; r++)
            for (long c = 0; c < channels; c += BLOCK) {
                const long width = std::min(BLOCK, channels - c), at = r * inputs * channels + c;
                auto call = width == BLOCK ? tile<T, BLOCK> : tile<T, 0>;
                call(w ? w + at : nullptr, rows + r * channels + c, columns + r / outputs * inputs * channels + c, result + at, inputs, channels, width);
            }
    };
    divide(all, threads, work);
}

}  // namespace

extern "C" {
void forward_4(const float* w, const float* rows, const float* columns, float* result, int64_t batch, int64_t outputs, int64_t inputs, int64_t channels, int64_t threads) { run(w, rows, columns, result, batch, outputs, inputs, channels, threads); }
void forward_8(const double* w, const double* rows, const double* columns, double* result, int64_t batch, int64_t outputs, int64_t inputs, int64_t channels, int64_t threads) { run(w, rows, columns, result, batch, outputs, inputs, channels, threads); }
}
