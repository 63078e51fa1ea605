// One model a thread, some sequences at a time: their states, their gates and both weight matrices stay in the innermost
// cache through all time steps. (x_t, h_{t-1}) lie side by side, so that a step is one product with (W_ih, W_hh).

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr long ROWS = 24;  // sequences at a time

struct Task {
    int64_t models, batch, time, in, hidden, threads;
    const float *x, *w_ih, *w_hh, *b_ih, *b_hh;
    float *states, *kept;  // kept: [M, B, T, 5, h], the four gates and the cell
    const float* g;        // gradient of the states
    float *dx, *dw_ih, *dw_hh, *db;
};

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-x)); }
inline Vector bent(Vector x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }  // tanh, to 1.2e-7

class Model {
    const Task& task;
    const long h, row, gates, in_row, depth, enter_row;  // row: padded h; gates: four rows; entering is (x, h) padded
    Floats entering, gate, cell, before, weights, w_hh, w_ih, bias, zeros;
    Floats d_gate, d_state, d_cell, d_weights, d_bias, d_input;

   public:
    explicit Model(const Task& t)
        : task(t), h(t.hidden), row(padded(h)), gates(4 * row), in_row(padded(t.in)), depth(t.in + h), enter_row(padded(depth)),
          entering(ROWS * enter_row), gate(ROWS * gates), cell(ROWS * row), before(ROWS * row), weights(depth * gates),
          w_hh(gates * row), w_ih(gates * in_row), bias(gates), zeros(std::max(row, in_row)), d_gate(ROWS * gates),
          d_state(ROWS * row), d_cell(ROWS * row), d_weights(depth * gates), d_bias(gates), d_input(ROWS * in_row) {}

    void infer(long model) {
        arrange(model);
        for (long first = 0; first < task.batch; first += ROWS) {
            const long rows = std::min(ROWS, task.batch - first);
            std::memset(entering, 0, ROWS * enter_row * 4), std::memset(cell, 0, ROWS * row * 4);
            for (long t = 0; t < task.time; t++) {
                for (long r = 0; r < rows; r++) copy(x_at(model, first + r, t), entering + r * enter_row, task.in);
                multiply({entering, enter_row, 1, weights, gates, depth, gate, gates, bias, 0}, rows, gates);
                for (long r = 0; r < rows; r++) step(gate + r * gates, cell + r * row, before + r * row);
                for (long r = 0; r < rows; r++) {
                    copy(before + r * row, entering + r * enter_row + task.in, h);
                    copy(before + r * row, state_at(task.states, model, first + r, t), h);
                    float* kept = kept_at(model, first + r, t);
                    for (long k = 0; k < 4; k++) copy(gate + r * gates + k * row, kept + k * h, h);
                    copy(cell + r * row, kept + 4 * h, h);
                }
            }
        }
    }

    void differentiate(long model) {
        arrange(model);
        std::memset(d_weights, 0, depth * gates * 4), std::memset(d_bias, 0, gates * 4);
        for (long first = 0; first < task.batch; first += ROWS) {
            const long rows = std::min(ROWS, task.batch - first);
            std::memset(d_state, 0, ROWS * row * 4), std::memset(d_cell, 0, ROWS * row * 4), std::memset(before, 0, ROWS * row * 4);
            for (long r = 0; r < rows; r++) copy(kept_at(model, first + r, task.time - 1) + 4 * h, cell + r * row, h);
            for (long t = task.time - 1; t >= 0; t--) {
                for (long r = 0; r < rows; r++) {
                    const float *kept = kept_at(model, first + r, t), *g = state_at(task.g, model, first + r, t);
                    for (long k = 0; k < 4; k++) copy(kept + k * h, gate + r * gates + k * row, h);
                    for (long i = 0; i < h; i++) d_state[r * row + i] += g[i];
                    copy(x_at(model, first + r, t), entering + r * enter_row, task.in);
                    float* state = entering + r * enter_row + task.in;
                    if (t) copy(state_at(task.states, model, first + r, t - 1), state, h), copy(kept_at(model, first + r, t - 1) + 4 * h, before + r * row, h);
                    else std::fill(state, state + h, 0.0f), std::fill(before + r * row, before + (r + 1) * row, 0.0f);
                    step_back(r);
                }
                for (long k = 0; k < gates; k += LANES) {
                    Vector sum = load(d_bias + k);
                    for (long r = 0; r < rows; r++) sum += load(d_gate + r * gates + k);
                    store(d_bias + k, sum);
                }
                multiply({entering, 1, enter_row, d_gate, gates, rows, d_weights, gates, d_weights, gates}, depth, gates);
                multiply({d_gate, gates, 1, w_hh, row, gates, d_state, row, zeros, 0}, rows, row);
                if (task.dx) {
                    multiply({d_gate, gates, 1, w_ih, in_row, gates, d_input, in_row, zeros, 0}, rows, in_row);
                    for (long r = 0; r < rows; r++) copy(d_input + r * in_row, task.dx + (x_at(model, first + r, t) - task.x), task.in);
                }
                std::swap(cell.data, before.data);
            }
        }
        for (long k = 0; k < 4; k++)
            for (long i = 0; i < h; i++) {
                const long out = (model * 4 + k) * h + i;
                task.db[out] = d_bias[k * row + i];
                for (long j = 0; j < task.in; j++) task.dw_ih[out * task.in + j] = d_weights[j * gates + k * row + i];
                for (long j = 0; j < h; j++) task.dw_hh[out * h + j] = d_weights[(task.in + j) * gates + k * row + i];
            }
    }

   private:
    static void copy(const float* from, float* to, long count) { std::memcpy(to, from, count * 4); }
    const float* x_at(long m, long b, long t) const { return task.x + ((m * task.batch + b) * task.time + t) * task.in; }
    template <class P> P state_at(P p, long m, long b, long t) const { return p + ((m * task.batch + b) * task.time + t) * h; }
    float* kept_at(long m, long b, long t) const { return task.kept + ((m * task.batch + b) * task.time + t) * 5 * h; }

    void arrange(long model) {
        for (long k = 0; k < 4; k++)
            for (long i = 0; i < h; i++) {
                const long out = (model * 4 + k) * h + i, lane = k * row + i;
                bias[lane] = task.b_ih[out] + task.b_hh[out];
                for (long j = 0; j < task.in; j++) weights[j * gates + lane] = w_ih[lane * in_row + j] = task.w_ih[out * task.in + j];
                for (long j = 0; j < h; j++) weights[(task.in + j) * gates + lane] = w_hh[lane * row + j] = task.w_hh[out * h + j];
            }
    }

    // Pre-activations become gates, the cell moves on. Padding: gates of ½, but content 0, so cell and state stay 0.
    void step(float* gate, float* cell, float* state) {
        for (long i = 0; i < row; i += LANES) {
            const Vector write = sigmoid(load(gate + i)), keep = sigmoid(load(gate + row + i));
            const Vector content = bent(load(gate + 2 * row + i)), read = sigmoid(load(gate + 3 * row + i));
            const Vector now = keep * load(cell + i) + write * content;
            store(gate + i, write), store(gate + row + i, keep), store(gate + 2 * row + i, content), store(gate + 3 * row + i, read);
            store(cell + i, now), store(state + i, read * bent(now));
        }
    }

    void step_back(long r) {
        for (long i = 0; i < row; i += LANES) {
            const float* own = gate + r * gates + i;
            const Vector write = load(own), keep = load(own + row), content = load(own + 2 * row), read = load(own + 3 * row);
            const Vector shown = bent(load(cell + r * row + i)), d_h = load(d_state + r * row + i);
            const Vector d_c = load(d_cell + r * row + i) + d_h * read * (1.0f - shown * shown);
            float* d = d_gate + r * gates + i;
            store(d, d_c * content * write * (1.0f - write));
            store(d + row, d_c * load(before + r * row + i) * keep * (1.0f - keep));
            store(d + 2 * row, d_c * write * (1.0f - content * content));
            store(d + 3 * row, d_h * shown * read * (1.0f - read));
            store(d_cell + r * row + i, d_c * keep);
        }
    }
};

}  // namespace

extern "C" void forward(const Task* task) {
    share(task->models, task->threads, [&](auto next) {
        Model model(*task);
        for (long i; (i = next()) >= 0;) model.infer(i);
    });
}

extern "C" void backward(const Task* task) {
    share(task->models, task->threads, [&](auto next) {
        Model model(*task);
        for (long i; (i = next()) >= 0;) model.differentiate(i);
    });
}
