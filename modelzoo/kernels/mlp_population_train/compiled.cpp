// All steps of one model before those of the next, one thread a model: weights, moments, gradients and the activations
// of one tile of samples (some 80 kB at width 32) stay in the innermost caches, and no step allocates or calls anything.
//
// A tile's features lie side by side, padded with zeros to whole vectors, so that forward pass, backward pass and
// weight gradients are one product C[r, :] += Σ_k A[r, k] B[k, :] with broadcast A, and nothing is ever transposed but
// the weights, once a step. Padding stays zero by itself: act(0) = 0 for every activation here.

#include <numeric>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr long TILE = 48;  // samples; whole blocks of 3, 4, 6 and 8 rows
constexpr float FARTHEST = 1e4f;
enum Activation { RELU, TANH, SIN, GELU };

// sin z and cos z to 1.5 units in the last place for |z| < 10^4: multiples of π/2 in three exact parts, then minimax.
inline void sine(Vector z, Vector& sin, Vector& cos) {
    const Vector shifted = z * 0.6366197723675814f + ROUND, quarter = shifted - ROUND;
    const Integers turn = bits(shifted);
    Vector r = z - quarter * 1.5703125f - quarter * 4.837512969970703e-4f - quarter * 7.549789954891882e-8f;
    const Vector s = r * r;
    const Vector odd = r + r * s * (-1.6666654611e-1f + s * (8.3321608736e-3f + s * -1.9515295891e-4f));
    const Vector even = 1.0f + s * (-0.5f + s * (4.166664568298827e-2f + s * (-1.388731625493765e-3f + s * 2.443315711809948e-5f)));
    const Integers swapped = (turn & 1) != 0;
    sin = floats(bits(swapped ? even : odd) ^ ((turn & 2) << 30));
    cos = floats(bits(swapped ? odd : even) ^ (((turn + 1) & 2) << 30));
}

// The library's sine and cosine where three parts of π/2 do not do.
__attribute__((noinline)) void far_sine(const float* z, float* h, float* slope, long count) {
    for (long i = 0; i < count; i++)
        if (std::fabs(z[i]) > FARTHEST) h[i] = std::sin(z[i]), slope[i] = std::cos(z[i]);
}

// erf x, given exp(-x²): a polynomial in x² below 1, and above it one in 1 / (1 + x) times exp(-x²). Both to 1.4e-7.
inline Vector error_function(Vector x, Vector bell) {
    const Vector a = magnitude(x), s = x * x, t = 1.0f / (1.0f + a);
    const Vector near = x * (1.1283791658815026f + s * (-0.37612626903579793f + s * (0.11283597463483087f + s * (-0.026854328795915625f + s * (0.005189311942471876f + s * (-0.0008018854991405533f + s * 7.882497106947996e-05f))))));
    const Vector tail = -1.9653507564637573e-05f + t * (0.5647193792488502f + t * (0.5589000009902645f + t * (0.3017932659985104f + t * (-0.24336254095817567f + t * (-1.3189360910484607f + t * (1.9958170024776052f + t * -0.891309919747578f))))));
    return a < 1.0f ? near : signed_as(1.0f - bell * tail, x);
}

// sin and cos of N vectors side by side, so that one's latency hides behind the others'.
template <int N>
inline void waves(float* h, float* slope, float frequency) {
    Vector z[N], value[N], rise[N];
    Integers far{};
    for (int n = 0; n < N; n++) z[n] = load(h + n * LANES), far |= magnitude(z[n]) > FARTHEST;
    for (int n = 0; n < N; n++) sine(z[n], value[n], rise[n]);
    if (__builtin_expect(any(far), 0)) far_sine((float*)z, (float*)value, (float*)rise, N * LANES);
    for (int n = 0; n < N; n++) store(h + n * LANES, value[n]), store(slope + n * LANES, rise[n] * frequency);
}

// z in h becomes act(z), and slope act'(z) · frequency.
template <int ACTIVATION>
void activate(float* h, float* slope, long count, float frequency) {
    if (ACTIVATION == SIN) {
        long i = 0;
        for (; i + 4 * LANES <= count; i += 4 * LANES) waves<4>(h + i, slope + i, frequency);
        for (; i < count; i += LANES) waves<1>(h + i, slope + i, frequency);
        return;
    }
    for (long i = 0; i < count; i += LANES) {
        const Vector z = load(h + i);
        Vector value, rise;
        if (ACTIVATION == RELU) {
            const Integers off = z <= 0.0f;  // NaN stays
            value = off ? all(0.0f) : z, rise = z > 0.0f ? all(1.0f) : all(0.0f);
        } else if (ACTIVATION == TANH) {
            value = hyperbolic_tangent(z), rise = 1.0f - value * value;
        } else {
            const Vector bell = exponential(-0.5f * z * z);
            const Vector below = 0.5f * (1.0f + error_function(z * 0.7071067811865476f, bell));
            value = z * below, rise = below + z * bell * 0.3989422804014327f;
        }
        store(h + i, value), store(slope + i, rise * frequency);
    }
}

struct Layer {
    long in, out, in_row, out_row;
    bool by_input;       // parameters lie as [in, out] instead of [out, in], whichever has less padding
    long weight, bias;   // where they start among the model's parameters
    long rows() const { return by_input ? in : out; }
    long row() const { return by_input ? out_row : in_row; }
};

struct Shapes {
    std::vector<Layer> layers;
    long parameters = 0, widest = 0;
    Shapes(const int64_t* widths, long count) {
        for (long l = 0; l < count; l++) {
            Layer layer{widths[l], widths[l + 1], padded(widths[l]), padded(widths[l + 1]), false, 0, 0};
            layer.by_input = layer.in * layer.out_row < layer.out * layer.in_row;
            layer.weight = parameters, parameters += layer.rows() * layer.row();
            layer.bias = parameters, parameters += layer.out_row;
            widest = std::max({widest, layer.in_row, layer.out_row});
            layers.push_back(layer);
        }
    }
};

struct Task {
    const int64_t* widths;
    int64_t layers, models, samples, steps, start, batch, x_stride, y_stride;
    int64_t activation;
    double frequency, beta1, beta2, epsilon;
    float **weights, **biases, **first, **second;
    const float *x, *y;            // y is null where targets are labels
    const int64_t *labels, *rows;  // rows [M, K, B] is null where every step sees all samples
    const float *rate, *decay;
    float* losses;
};

template <int ACTIVATION>
class Model {
    const Task& task;
    const Shapes shapes;
    const long last;
    Floats theta, m, v, g;
    Floats working, zeros;           // weights as both products want them
    std::vector<float*> forward, backward, biases;
    Floats tiles;
    std::vector<float*> h, slope;    // h[l] enters layer l
    float *d, *d_next, *wanted;
    int64_t label[TILE];

   public:
    explicit Model(const Task& task)
        : task(task), shapes(task.widths, task.layers), last(task.layers - 1),
          theta(shapes.parameters), m(shapes.parameters), v(shapes.parameters), g(shapes.parameters),
          working(task.layers * shapes.widest * (2 * shapes.widest + 1)), zeros(shapes.widest),
          tiles((2 * task.layers + 4) * TILE * shapes.widest) {
        float *w = working, *t = tiles;
        const long square = shapes.widest * shapes.widest, tile = TILE * shapes.widest;
        for (long l = 0; l < task.layers; l++) {
            forward.push_back(w), w += square;
            backward.push_back(w), w += square;
            biases.push_back(w), w += shapes.widest;
            h.push_back(t), t += tile;
            slope.push_back(t), t += tile;
        }
        h.push_back(t), d = t + tile, d_next = t + 2 * tile, wanted = t + 3 * tile;
    }

    void train(long model) {
        copy(model, true);
        bool alive = true;
        for (long step = 0; step < task.steps; step++) {
            if (step == 0 || alive) arrange();
            std::memset(g, 0, shapes.parameters * 4);
            double loss = 0;
            for (long row = 0; row < task.batch; row += TILE) {
                const long rows = std::min(TILE, task.batch - row);
                read(model, step, row, rows);
                propagate(rows);
                loss += task.labels ? cross_entropy(rows) : squared_error(rows);
                differentiate(rows);
            }
            task.losses[model * task.steps + step] = loss / (task.batch * (task.labels ? 1 : shapes.layers[last].out));
            if (alive) alive = finite();
            if (alive) update(task.start + step + 1, task.rate[model], task.decay[model]);
        }
        copy(model, false);
    }

   private:
    // Between the caller's tensors and the model's own padded parameters.
    void copy(long model, bool in) {
        for (long l = 0; l <= last; l++) {
            const Layer& layer = shapes.layers[l];
            float* own[] = {theta, m, v};
            float* weights[] = {task.weights[l], task.first[l], task.second[l]};
            float* biases[] = {task.biases[l], task.first[task.layers + l], task.second[task.layers + l]};
            for (int part = 0; part < 3; part++) {
                float* theirs = weights[part] + model * layer.out * layer.in;
                for (long o = 0; o < layer.out; o++)
                    for (long i = 0; i < layer.in; i++, theirs++) {
                        float& mine = own[part][layer.weight + (layer.by_input ? i * layer.out_row + o : o * layer.in_row + i)];
                        in ? mine = *theirs : *theirs = mine;
                    }
                theirs = biases[part] + model * layer.out;
                float* mine = own[part] + layer.bias;
                in ? std::copy(theirs, theirs + layer.out, mine) : std::copy(mine, mine + layer.out, theirs);
            }
        }
    }

    // The frequency goes into what is multiplied on the way forward: ω(W h + b) = (ωW) h + ωb.
    void arrange() {
        for (long l = 0; l <= last; l++) {
            const Layer& layer = shapes.layers[l];
            const float scale = l < last ? task.frequency : 1.0f;
            const float* w = theta + layer.weight;
            for (long o = 0; o < layer.out; o++) {
                biases[l][o] = scale * theta[layer.bias + o];
                for (long i = 0; i < layer.in; i++) {
                    const float entry = layer.by_input ? w[i * layer.out_row + o] : w[o * layer.in_row + i];
                    forward[l][i * layer.out_row + o] = scale * entry;
                    backward[l][o * layer.in_row + i] = entry;
                }
            }
        }
    }

    void read(long model, long step, long first, long rows) {
        const Layer &head = shapes.layers[0], &tail = shapes.layers[last];
        for (long row = 0; row < rows; row++) {
            const long sample = task.rows ? task.rows[(model * task.steps + step) * task.batch + first + row] : first + row;
            const float* x = task.x + model * task.x_stride + sample * head.in;
            std::copy(x, x + head.in, h[0] + row * head.in_row);
            if (task.labels) {
                label[row] = task.labels[model * task.y_stride + sample];
            } else {
                const float* y = task.y + model * task.y_stride + sample * tail.out;
                std::copy(y, y + tail.out, wanted + row * tail.out_row);
            }
        }
    }

    void propagate(long rows) {
        for (long l = 0; l <= last; l++) {
            const Layer& layer = shapes.layers[l];
            if (4 * layer.out <= LANES) {  // few outputs would leave most lanes idle: sum along the inputs instead
                dot(layer, l, rows);
            } else {
                multiply({h[l], layer.in_row, 1, forward[l], layer.out_row, layer.in, h[l + 1], layer.out_row, biases[l], 0},
                         rows, layer.out_row);
            }
            if (l < last) activate<ACTIVATION>(h[l + 1], slope[l + 1], rows * layer.out_row, task.frequency);
        }
    }

    void dot(const Layer& layer, long l, long rows) {
        const float scale = l < last ? task.frequency : 1.0f;
        for (long row = 0; row < rows; row++)
            for (long o = 0; o < layer.out; o++) {
                Vector sum{};
                for (long i = 0; i < layer.in_row; i += LANES)
                    sum += load(h[l] + row * layer.in_row + i) * load(backward[l] + o * layer.in_row + i);
                float total = 0;
                for (long i = 0; i < LANES; i++) total += sum[i];
                h[l + 1][row * layer.out_row + o] = scale * total + biases[l][o];
            }
    }

    // Both losses leave their gradient in d, with zeros in the padding: the buffer held wider layers.
    double squared_error(long rows) {
        const Layer& tail = shapes.layers[last];
        const float scale = 2.0f / (task.batch * tail.out);
        double loss = 0;
        for (long row = 0; row < rows; row++) {
            float own = 0;
            for (long o = 0; o < tail.out; o++) {
                const long at = row * tail.out_row + o;
                const float gap = h[last + 1][at] - wanted[at];
                own += gap * gap, d[at] = scale * gap;
            }
            std::fill(d + row * tail.out_row + tail.out, d + (row + 1) * tail.out_row, 0.0f);
            loss += own;
        }
        return loss;
    }

    double cross_entropy(long rows) {
        const Layer& tail = shapes.layers[last];
        double loss = 0;
        for (long row = 0; row < rows; row++) {
            const float* logits = h[last + 1] + row * tail.out_row;
            float* own = d + row * tail.out_row;
            const float largest = *std::max_element(logits, logits + tail.out);
            for (long o = 0; o < tail.out_row; o += LANES) store(own + o, exponential(load(logits + o) - largest));
            const float total = std::accumulate(own, own + tail.out, 0.0f), scale = 1.0f / (total * task.batch);
            for (long o = 0; o < tail.out; o++) own[o] *= scale;
            std::fill(own + tail.out, own + tail.out_row, 0.0f);
            own[label[row]] -= 1.0f / task.batch;
            loss += std::log(total) + largest - logits[label[row]];
        }
        return loss;
    }

    void differentiate(long rows) {
        for (long l = last; l >= 0; l--) {
            const Layer& layer = shapes.layers[l];
            float* own = g + layer.weight;
            if (layer.by_input)
                multiply({h[l], 1, layer.in_row, d, layer.out_row, rows, own, layer.out_row, own, layer.out_row}, layer.in, layer.out_row);
            else
                multiply({d, 1, layer.out_row, h[l], layer.in_row, rows, own, layer.in_row, own, layer.in_row}, layer.out, layer.in_row);
            for (long o = 0; o < layer.out_row; o += LANES) {
                Vector sum = load(g + layer.bias + o);
                for (long row = 0; row < rows; row++) sum += load(d + row * layer.out_row + o);
                store(g + layer.bias + o, sum);
            }
            if (l == 0) break;
            multiply({d, layer.out_row, 1, backward[l], layer.in_row, layer.out, d_next, layer.in_row, zeros, 0}, rows, layer.in_row);
            for (long i = 0; i < rows * layer.in_row; i += LANES) store(d_next + i, load(d_next + i) * load(slope[l] + i));
            std::swap(d, d_next);
        }
    }

    bool finite() {
        double squares = 0;
        for (long i = 0; i < shapes.parameters; i += LANES) {
            const Vector own = load(g + i) * load(g + i);
            float total = 0;
            for (long lane = 0; lane < LANES; lane++) total += own[lane];
            squares += total;
        }
        return std::isfinite(squares);
    }

    void update(long step, float rate, float decay) {
        const float beta1 = task.beta1, beta2 = task.beta2, rest1 = 1 - task.beta1, rest2 = 1 - task.beta2, epsilon = task.epsilon;
        const float kept = 1.0f - rate * decay, stride = rate / (1 - std::pow(task.beta1, step)), root = std::sqrt(1 - std::pow(task.beta2, step));
        float* __restrict own = theta;
        float* __restrict first = m;
        float* __restrict second = v;
        const float* __restrict gradient = g;
        for (long i = 0; i < shapes.parameters; i++) {
            first[i] = beta1 * first[i] + rest1 * gradient[i];
            second[i] = beta2 * second[i] + rest2 * gradient[i] * gradient[i];
            own[i] = kept * own[i] - stride * first[i] / (std::sqrt(second[i]) / root + epsilon);
        }
    }
};

template <int ACTIVATION>
void run(const Task& task, long threads) {
    share(task.models, threads, [&](auto next) {
        Model<ACTIVATION> model(task);
        for (long i; (i = next()) >= 0;) model.train(i);
    });
}

}  // namespace

extern "C" void train(const Task* task, int64_t threads) {
    switch (task->activation) {
        case RELU: return run<RELU>(*task, threads);
        case TANH: return run<TANH>(*task, threads);
        case SIN: return run<SIN>(*task, threads);
        case GELU: return run<GELU>(*task, threads);
    }
}
