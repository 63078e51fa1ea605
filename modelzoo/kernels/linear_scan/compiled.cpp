// One step after the other, a vector of channels at a time: decay and inputs are read once and states written once.
// Blocks of channels are independent; they are shared among threads.

#include <algorithm>
#include <cstdint>

#include "threads.hpp"

namespace {

constexpr long BLOCK = 64;  // numbers of one row that one thread walks down with

template <class T, bool COMPLEX> void walk(const T* decay, const T* inputs, T* states, long time, long row, long width, long step) {
    const T* before = nullptr;
    for (long t = 0; t < time; t++, decay += step * row, inputs += step * row, states += step * row) {
        const T* __restrict a = decay;
        const T* __restrict x = inputs;
        const T* __restrict last = before;
        T* __restrict h = states;
        if (!last) std::copy(x, x + width, h);
        else if (COMPLEX)
            for (long c = 0; c < width; c += 2) {
                h[c] = a[c] * last[c] - a[c + 1] * last[c + 1] + x[c];
                h[c + 1] = a[c] * last[c + 1] + a[c + 1] * last[c] + x[c + 1];
            }
        else
            for (long c = 0; c < width; c++) h[c] = a[c] * last[c] + x[c];
        before = states;
    }
}

template <class T> void run(const T* decay, const T* inputs, T* states, long batch, long time, long row, bool complex, bool reverse, long threads) {
    const long blocks = (row + BLOCK - 1) / BLOCK, tiles = batch * blocks;
    auto work = [=](long begin, long end) {
        for (long i = begin; i < end; i++) {
            const long c = i % blocks * BLOCK, at = (i / blocks * time + (reverse ? time - 1 : 0)) * row + c;
            auto call = complex ? walk<T, true> : walk<T, false>;
            call(decay + at, inputs + at, states + at, time, row, std::min(BLOCK, row - c), reverse ? -1 : 1);
        }
    };
    divide(tiles, threads, work);
}

}  // namespace

extern "C" {
void forward_4(const float* decay, const float* inputs, float* states, int64_t batch, int64_t time, int64_t row, int64_t complex, int64_t reverse, int64_t threads) { run(decay, inputs, states, batch, time, row, complex, reverse, threads); }
void forward_8(const double* decay, const double* inputs, double* states, int64_t batch, int64_t time, int64_t row, int64_t complex, int64_t reverse, int64_t threads) { run(decay, inputs, states, batch, time, row, complex, reverse, threads); }
}
