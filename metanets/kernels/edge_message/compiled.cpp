// A message is made, used and forgotten in registers. Threads share the channels, so that no two of them add to one row
// and sums have the same order every time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "threads.hpp"

namespace {

constexpr long BYTES = 32;
template <class T> constexpr long LANES = BYTES / sizeof(T);
template <class T> struct Vectors { typedef T Type __attribute__((vector_size(BYTES))); };
template <class T> using Vector = typename Vectors<T>::Type;
typedef int32_t Integers __attribute__((vector_size(BYTES)));
enum Activation { IDENTITY, RELU, SILU };

template <class T> inline Vector<T> load(const T* p) { Vector<T> v; std::memcpy(&v, p, sizeof v); return v; }
template <class T> inline void store(T* p, Vector<T> v) { std::memcpy(p, &v, sizeof v); }

// 2^n e^r with |r| < ln 2 / 2, to two units in the last place; the ends of the range stay finite, NaN stays NaN.
inline Vector<float> exponential(Vector<float> x) {
    x = x < -87.0f ? -87.0f - Vector<float>{} : x > 88.0f ? 88.0f - Vector<float>{} : x;
    const Vector<float> shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;  // the nearest integer
    const Vector<float> r = x - n * 0.693359375f - n * -2.12194440e-4f;
    const Vector<float> even = 0.5f + r * (1.6666665459e-1f + r * (4.1665795894e-2f + r * (8.3334519073e-3f + r * (1.3981999507e-3f + r * 1.9875691500e-4f))));
    return (Vector<float>)((Integers)(1.0f + r + r * r * even) + ((Integers)shifted << 23));
}
inline Vector<double> exponential(Vector<double> x) {
    for (long i = 0; i < LANES<double>; i++) x[i] = std::exp(x[i]);
    return x;
}
template <class T> inline Vector<T> sigmoid(Vector<T> z) { return 1 / (1 + exponential(-z)); }

template <class F> void share_channels(long channels, long lanes, long threads, F work) {
    if (channels)
        divide((channels + lanes - 1) / lanes, threads, [=](long begin, long end) { work(begin * lanes, std::min(end * lanes, channels)); });
}

template <class T> struct Graph {
    const T *nodes, *gain, *shift, *target;
    const int64_t *source, *offsets;
    int64_t targets, channels;
};

template <class T, int ACTIVATION> inline Vector<T> activate(Vector<T> z) {
    if (ACTIVATION == RELU) return z < 0 ? Vector<T>{} : z;
    return ACTIVATION == SILU ? z * sigmoid<T>(z) : z;
}
template <class T, int ACTIVATION> inline Vector<T> slope(Vector<T> z) {
    if (ACTIVATION == RELU) return z > 0 ? 1 - Vector<T>{} : Vector<T>{};
    const Vector<T> s = sigmoid<T>(z);
    return ACTIVATION == SILU ? s * (1 + z * (1 - s)) : 1 - Vector<T>{};
}

template <class T, int ACTIVATION> void forward(const Graph<T>& g, T* pooled, T* updated, long begin, long end) {
    const long channels = g.channels;
    for (long v = 0, e = 0; v < g.targets; v++) {
        const T* y = g.target + v * channels;
        T* sum = pooled + v * channels;
        for (long c = begin; c < end; c++) sum[c] = 0;
        for (const long last = g.offsets[v + 1]; e < last; e++) {
            const T *x = g.nodes + g.source[e] * channels, *gain = g.gain + e * channels, *shift = g.shift + e * channels;
            T* u = updated ? updated + e * channels : nullptr;
            for (long c = begin; c < end; c += LANES<T>) {
                if (c + LANES<T> <= end) {
                    const Vector<T> own = activate<T, ACTIVATION>(load(gain + c) * load(x + c) + load(shift + c) + load(y + c));
                    store<T>(sum + c, load(sum + c) + own);
                    if (u) store<T>(u + c, own);
                } else
                    for (long i = c; i < end; i++) {
                        const T own = activate<T, ACTIVATION>(gain[i] * x[i] + shift[i] + y[i] - Vector<T>{})[0];
                        sum[i] += own;
                        if (u) u[i] = own;
                    }
            }
        }
    }
}

template <class T> struct Gradients {
    const T *pooled, *updated;
    T *nodes, *gain, *shift, *target;  // nodes start as zero
};

template <class T, int ACTIVATION> void backward(const Graph<T>& g, const Gradients<T>& d, long begin, long end) {
    const long channels = g.channels;
    for (long v = 0, e = 0; v < g.targets; v++) {
        const T *y = g.target + v * channels, *given = d.pooled + v * channels;
        T* d_y = d.target + v * channels;
        for (long c = begin; c < end; c++) d_y[c] = 0;
        for (const long last = g.offsets[v + 1]; e < last; e++) {
            const long from = g.source[e] * channels, at = e * channels;
            const T *x = g.nodes + from, *gain = g.gain + at, *shift = g.shift + at, *more = d.updated ? d.updated + at : nullptr;
            T *d_x = d.nodes + from, *d_gain = d.gain + at, *d_shift = d.shift + at;
            for (long c = begin; c < end; c += LANES<T>) {
                if (c + LANES<T> <= end) {
                    const Vector<T> here = load(x + c), factor = load(gain + c);
                    const Vector<T> into = more ? load(given + c) + load(more + c) : load(given + c);
                    const Vector<T> own = into * slope<T, ACTIVATION>(factor * here + load(shift + c) + load(y + c));
                    store<T>(d_shift + c, own);
                    store<T>(d_gain + c, own * here);
                    store<T>(d_y + c, load(d_y + c) + own);
                    store<T>(d_x + c, load(d_x + c) + own * factor);
                } else
                    for (long i = c; i < end; i++) {
                        const T into = more ? given[i] + more[i] : given[i];
                        const T own = into * slope<T, ACTIVATION>(gain[i] * x[i] + shift[i] + y[i] - Vector<T>{})[0];
                        d_shift[i] = own;
                        d_gain[i] = own * x[i];
                        d_y[i] += own;
                        d_x[i] += own * gain[i];
                    }
            }
        }
    }
}

// Calls work with the activation as a constant.
template <class F> void chosen(int64_t activation, F work) {
    if (activation == IDENTITY) work(std::integral_constant<int, IDENTITY>());
    else if (activation == RELU) work(std::integral_constant<int, RELU>());
    else work(std::integral_constant<int, SILU>());
}

template <class T> void run_forward(const Graph<T>& graph, T* pooled, T* updated, int64_t activation, int64_t threads) {
    chosen(activation, [&](auto a) {
        share_channels(graph.channels, LANES<T>, threads, [&](long b, long e) { forward<T, decltype(a)::value>(graph, pooled, updated, b, e); });
    });
}
template <class T> void run_backward(const Graph<T>& graph, const Gradients<T>& d, int64_t activation, int64_t threads) {
    chosen(activation, [&](auto a) {
        share_channels(graph.channels, LANES<T>, threads, [&](long b, long e) { backward<T, decltype(a)::value>(graph, d, b, e); });
    });
}

}  // namespace

extern "C" {
void forward_4(const Graph<float>* graph, float* pooled, float* updated, int64_t activation, int64_t threads) { run_forward(*graph, pooled, updated, activation, threads); }
void forward_8(const Graph<double>* graph, double* pooled, double* updated, int64_t activation, int64_t threads) { run_forward(*graph, pooled, updated, activation, threads); }
void backward_4(const Graph<float>* graph, const Gradients<float>* d, int64_t activation, int64_t threads) { run_backward(*graph, *d, activation, threads); }
void backward_8(const Graph<double>* graph, const Gradients<double>* d, int64_t activation, int64_t threads) { run_backward(*graph, *d, activation, threads); }
}
