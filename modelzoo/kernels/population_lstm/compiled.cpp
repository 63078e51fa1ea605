// One model a thread, some sequences at a time: their states, gates and all weights stay in the innermost caches through
// all time steps. (1, x_t, h_{t-1}) lie side by side, so that a step is one product with (b, W_ih, W_hh), and the four gates
// of a vector of units come out of it in registers. The way back computes them again: cheaper than to write and read them.

#include <type_traits>

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr long ROWS = 24;           // sequences at a time
constexpr long GATES = 4 * LANES;   // of a vector of units: write, keep, content, read
constexpr float STEEPEST = 40.0f;   // beyond it a gate is 0 or 1, and products of two of its exponentials stay finite

struct Task {
    int64_t models, batch, time, in, hidden, threads;
    const float *x, *w_ih, *w_hh, *b_ih, *b_hh;
    float *states, *cells;  // [M, B, T, h]
    const float* g;         // gradient of the states
    float *dx, *dw_ih, *dw_hh, *db;
};

struct Gates {
    Vector write, keep, content, read;
    Gates() = default;
    explicit Gates(const Vector* z) {
        Vector e[] = {-z[0], -2.0f * z[2], -z[1], -z[3]};
        exponentials<4>(e, -STEEPEST, STEEPEST);
        for (Vector& own : e) own += 1.0f;
        const Vector first = 1.0f / (e[0] * e[1]), second = 1.0f / (e[2] * e[3]);  // 1/a = b · 1/(a b): half the divisions
        write = first * e[1], content = 2.0f * (first * e[0]) - 1.0f, keep = second * e[3], read = second * e[2];
    }
};

// tanh, to 1.2e-7.
template <int N>
inline void bend(Vector* x) {
    for (int n = 0; n < N; n++) x[n] *= -2.0f;
    exponentials<N>(x, -STEEPEST, STEEPEST);
    for (int n = 0; n < N; n++) x[n] = 2.0f / (1.0f + x[n]) - 1.0f;
}

class Model {
    const Task& task;
    const long h, row, gates, in_row, depth, enter_row;  // row: padded h; gates: four rows; entering is (1, x, h)
    Floats entering, following, cell, before, panels, w_hh, w_ih, zeros;
    Floats d_gate, d_state, d_cell, d_weights, d_input;

   public:
    explicit Model(const Task& t)
        : task(t), h(t.hidden), row(padded(h)), gates(4 * row), in_row(padded(t.in)), depth(1 + t.in + h), enter_row(1 + t.in + row),
          entering(ROWS * enter_row), following(ROWS * enter_row), cell(ROWS * row), before(ROWS * row), panels(depth * gates),
          w_hh(gates * row), w_ih(gates * in_row), zeros(std::max(GATES, std::max(row, in_row))), d_gate(ROWS * gates), d_state(ROWS * row),
          d_cell(ROWS * row), d_weights(depth * gates), d_input(ROWS * in_row) {
        for (long r = 0; r < ROWS; r++) entering[r * enter_row] = following[r * enter_row] = 1.0f;
    }

    void infer(long model) {
        arrange(model);
        for (long first = 0; first < task.batch; first += ROWS) {
            const long rows = std::min(ROWS, task.batch - first);
            std::memset(cell, 0, ROWS * row * 4);
            for (long r = 0; r < rows; r++) std::fill(entering + r * enter_row + 1 + task.in, entering + (r + 1) * enter_row, 0.0f);
            for (long t = 0; t < task.time; t++) {
                for (long r = 0; r < rows; r++) copy(task.x + at(model, first + r, t) * task.in, entering + r * enter_row + 1, task.in);
                each(rows, [&](auto count, long r, long unit, const Gates* gate) {
                    Vector now[count];
                    for (int n = 0; n < count; n++) {
                        float* own = cell + (r + n) * row + unit;
                        store(own, now[n] = gate[n].keep * load(own) + gate[n].write * gate[n].content);
                    }
                    bend<count>(now);
                    for (int n = 0; n < count; n++) store(following + (r + n) * enter_row + 1 + task.in + unit, gate[n].read * now[n]);
                });
                for (long r = 0; r < rows; r++) {
                    const long out = at(model, first + r, t) * h;
                    copy(following + r * enter_row + 1 + task.in, task.states + out, h), copy(cell + r * row, task.cells + out, h);
                }
                std::swap(entering.data, following.data);
            }
        }
    }

    void differentiate(long model) {
        arrange(model);
        std::memset(d_weights, 0, depth * gates * 4);
        for (long first = 0; first < task.batch; first += ROWS) {
            const long rows = std::min(ROWS, task.batch - first);
            std::memset(d_state, 0, ROWS * row * 4), std::memset(d_cell, 0, ROWS * row * 4), std::memset(before, 0, ROWS * row * 4);
            for (long r = 0; r < rows; r++) copy(task.cells + at(model, first + r, task.time - 1) * h, cell + r * row, h);
            for (long t = task.time - 1; t >= 0; t--) {
                for (long r = 0; r < rows; r++) {
                    const long here = at(model, first + r, t);
                    float* own = entering + r * enter_row + 1;
                    copy(task.x + here * task.in, own, task.in);
                    if (t) copy(task.states + (here - 1) * h, own + task.in, h), copy(task.cells + (here - 1) * h, before + r * row, h);
                    else std::fill(own + task.in, own + task.in + h, 0.0f), std::fill(before + r * row, before + (r + 1) * row, 0.0f);
                    for (long i = 0; i < h; i++) d_state[r * row + i] += task.g[here * h + i];
                }
                each(rows, [&](auto count, long r, long unit, const Gates* gate) {
                    Vector shown[count];
                    for (int n = 0; n < count; n++) shown[n] = load(cell + (r + n) * row + unit);
                    bend<count>(shown);
                    for (int n = 0; n < count; n++) step_back((r + n) * row + unit, d_gate + (r + n) * gates + 4 * unit, gate[n], shown[n]);
                });
                multiply({entering, 1, enter_row, d_gate, gates, rows, d_weights, gates, d_weights, gates}, depth, gates);
                multiply({d_gate, gates, 1, w_hh, row, gates, d_state, row, zeros, 0}, rows, row);
                if (task.dx) {
                    multiply({d_gate, gates, 1, w_ih, in_row, gates, d_input, in_row, zeros, 0}, rows, in_row);
                    for (long r = 0; r < rows; r++) copy(d_input + r * in_row, task.dx + at(model, first + r, t) * task.in, task.in);
                }
                std::swap(cell.data, before.data);
            }
        }
        for (long k = 0; k < 4; k++)
            for (long i = 0; i < h; i++) {
                const long out = (model * 4 + k) * h + i;
                const float* own = d_weights + lane(k, i);
                task.db[out] = *own;
                for (long j = 0; j < task.in; j++) task.dw_ih[out * task.in + j] = own[(1 + j) * gates];
                for (long j = 0; j < h; j++) task.dw_hh[out * h + j] = own[(1 + task.in + j) * gates];
            }
    }

   private:
    static void copy(const float* from, float* to, long count) {  // rows are too short for a call of memcpy
        long i = 0;
        for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
        for (; i < count; i++) to[i] = from[i];
    }
    static long lane(long gate, long unit) { return unit / LANES * GATES + gate * LANES + unit % LANES; }
    long at(long m, long b, long t) const { return (m * task.batch + b) * task.time + t; }

    // panels: [vectors of units, depth, 4, LANES], read from end to end by `units`.
    void arrange(long model) {
        for (long k = 0; k < 4; k++)
            for (long i = 0; i < h; i++) {
                const long out = (model * 4 + k) * h + i, own = lane(k, i);
                float* panel = panels + own / GATES * depth * GATES + own % GATES;
                *panel = task.b_ih[out] + task.b_hh[out];
                for (long j = 0; j < task.in; j++) panel[(1 + j) * GATES] = w_ih[own * in_row + j] = task.w_ih[out * task.in + j];
                for (long j = 0; j < h; j++) panel[(1 + task.in + j) * GATES] = w_hh[own * row + j] = task.w_hh[out * h + j];
            }
    }

    // `work(count, row, unit, gates)` for every vector of units of every row, `count` rows at a time.
    template <class Work>
    void each(long rows, Work work) {
        long r = 0;
        for (; r + 3 <= rows; r += 3)
            for (long unit = 0; unit < row; unit += LANES) units<3>(r, unit, work);
        for (; r < rows; r++)
            for (long unit = 0; unit < row; unit += LANES) units<1>(r, unit, work);
    }

    template <int COUNT, class Work>
    void units(long r, long unit, Work work) {
        Vector z[COUNT][4];  // by way of memory: inside this function the sums would not all stay in registers
        const float *own = entering + r * enter_row, *panel = panels + unit / LANES * depth * GATES;
        block<COUNT, 4>({own, enter_row, 1, panel, GATES, depth, reinterpret_cast<float*>(z), GATES, zeros, 0}, 0, 0);
        Gates gate[COUNT];
        for (int n = 0; n < COUNT; n++) gate[n] = Gates(z[n]);
        work(std::integral_constant<int, COUNT>{}, r, unit, gate);
    }

    // Padding: gates of ½, but content 0, so cell and state stay 0 on the way forward, and all is 0 on the way back.
    void step_back(long i, float* d, const Gates& gate, Vector shown) {
        const Vector d_h = load(d_state + i);
        const Vector d_c = load(d_cell + i) + d_h * gate.read * (1.0f - shown * shown);
        store(d, d_c * gate.content * gate.write * (1.0f - gate.write));
        store(d + LANES, d_c * load(before + i) * gate.keep * (1.0f - gate.keep));
        store(d + 2 * LANES, d_c * gate.write * (1.0f - gate.content * gate.content));
        store(d + 3 * LANES, d_h * shown * gate.read * (1.0f - gate.read));
        store(d_cell + i, d_c * gate.keep);
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
