// One model a thread. Some rows of patches at a time (a row is one output pixel) are laid out in the innermost cache, so
// that forward pass, weight gradients and input gradients are the products of `vectors.hpp`. Inside, an image lies pixel by
// pixel, its channels side by side: then one line of a patch is one run of memory.

#include "threads.hpp"
#include "vectors.hpp"

namespace {

constexpr long ROWS = 48;

struct Task {
    int64_t models, images, in, out, height, width, tall, wide, stride_y, stride_x, padding_y, padding_x, threads;
    const float *x, *w, *bias, *g;  // g: gradient of y
    float *y, *dx, *dw, *db;        // dx is null where nobody wants it
};

class Model {
    const Task& task;
    const long taps, patch, patch_row, out_row;              // patch = in · tall · wide, and the padded lengths
    const long tall, wide, pixels;                           // of the output
    const long line, volume, run;                            // one line of an image with its margin, all of them, one line of a patch
    const long group;                                        // images laid out at once
    const bool by_patch;                                     // weight gradients lie as [patch, out]: less padding
    std::vector<long> starts;                                // of the patch of every output pixel
    Floats image, d_image, patches, d_patches, outs, forward, backward, bias, zeros, gradient, d_bias;

   public:
    explicit Model(const Task& t)
        : task(t), taps(t.tall * t.wide), patch(t.in * taps), patch_row(padded(patch)), out_row(padded(t.out)),
          tall((t.height + 2 * t.padding_y - t.tall) / t.stride_y + 1), wide((t.width + 2 * t.padding_x - t.wide) / t.stride_x + 1),
          pixels(tall * wide), line((t.width + 2 * t.padding_x) * t.in), volume((t.height + 2 * t.padding_y) * line),
          run(t.wide * t.in), group(std::max(1L, ROWS / pixels)), by_patch(patch * out_row < t.out * patch_row),
          image(group * volume + LANES), d_image(group * volume),
          patches(ROWS * patch_row + LANES), d_patches(ROWS * patch_row), outs(ROWS * out_row), forward(patch * out_row),
          backward(t.out * patch_row), bias(out_row), zeros(std::max(patch_row, out_row)),
          gradient(std::max(patch * out_row, t.out * patch_row)), d_bias(out_row) {
        for (long i = 0; i < group; i++)
            for (long y = 0; y < tall; y++)
                for (long x = 0; x < wide; x++) starts.push_back(i * volume + y * t.stride_y * line + x * t.stride_x * t.in);
    }

    void infer(long model) {
        arrange(model);
        each(model, [&](long first, long row, long rows) {
            lay(row, rows);
            multiply({patches, patch_row, 1, forward, out_row, patch, outs, out_row, bias, 0}, rows, out_row);
            for (long r = 0; r < rows; r++) {
                float* y = task.y + at(model, first, row + r);
                for (long o = 0; o < task.out; o++) y[o * pixels] = outs[r * out_row + o];
            }
        });
    }

    void differentiate(long model) {
        arrange(model);
        std::memset(gradient, 0, std::max(patch * out_row, task.out * patch_row) * 4);
        std::memset(d_bias, 0, out_row * 4);
        each(model, [&](long first, long row, long rows) {
            lay(row, rows);
            for (long r = 0; r < rows; r++) {
                const float* g = task.g + at(model, first, row + r);
                for (long o = 0; o < task.out; o++) outs[r * out_row + o] = g[o * pixels];
            }
            for (long o = 0; o < out_row; o += LANES) {
                Vector sum = load(d_bias + o);
                for (long r = 0; r < rows; r++) sum += load(outs + r * out_row + o);
                store(d_bias + o, sum);
            }
            if (by_patch) multiply({patches, 1, patch_row, outs, out_row, rows, gradient, out_row, gradient, out_row}, patch, out_row);
            else multiply({outs, 1, out_row, patches, patch_row, rows, gradient, patch_row, gradient, patch_row}, task.out, patch_row);
            if (!task.dx) return;
            multiply({outs, out_row, 1, backward, patch_row, task.out, d_patches, patch_row, zeros, 0}, rows, patch_row);
            spread(row, rows);
        });
        float* dw = task.dw + model * task.out * patch;
        for (long o = 0; o < task.out; o++)
            for (long c = 0; c < task.in; c++)
                for (long tap = 0; tap < taps; tap++, dw++) {
                    const long k = tap * task.in + c;
                    *dw = by_patch ? gradient[k * out_row + o] : gradient[o * patch_row + k];
                }
        std::copy(d_bias.data, d_bias + task.out, task.db + model * task.out);
    }

   private:
    long at(long model, long first, long row) const {  // of output pixel `row` of the images from `first`, channel 0
        return (model * task.images + first + row / pixels) * task.out * pixels + row % pixels;
    }

    void arrange(long model) {
        const float* w = task.w + model * task.out * patch;
        for (long o = 0; o < task.out; o++)
            for (long c = 0; c < task.in; c++)
                for (long tap = 0; tap < taps; tap++, w++) {
                    const long k = tap * task.in + c;
                    forward[k * out_row + o] = backward[o * patch_row + k] = *w;
                }
        std::copy(task.bias + model * task.out, task.bias + (model + 1) * task.out, bias.data);
    }

    template <class Work>
    void each(long model, Work work) {
        for (long first = 0; first < task.images; first += group) {
            const long images = std::min(group, task.images - first);
            move<false>(const_cast<float*>(task.x), image, model, first, images);
            if (task.dx) std::memset(d_image, 0, images * volume * 4);
            for (long row = 0; row < images * pixels; row += ROWS) work(first, row, std::min(ROWS, images * pixels - row));
            if (task.dx) move<true>(task.dx, d_image, model, first, images);
        }
    }

    // Between the caller's images and those with a margin of zeros.
    template <bool OUT>
    void move(float* theirs, float* own, long model, long first, long images) {
        theirs += (model * task.images + first) * task.in * task.height * task.width;
        for (long i = 0; i < images; i++)
            for (long c = 0; c < task.in; c++)
                for (long y = 0; y < task.height; y++) {
                    float* mine = own + i * volume + (y + task.padding_y) * line + task.padding_x * task.in + c;
                    for (long x = 0; x < task.width; x++, theirs++, mine += task.in) OUT ? *theirs = *mine : *mine = *theirs;
                }
    }

    void lay(long row, long rows) {
        for (long r = 0; r < rows; r++) {
            const float* from = image + starts[row + r];
            float* to = patches + r * patch_row;
            for (long dy = 0; dy < task.tall; dy++, from += line, to += run)  // what is too much is overwritten by what follows
                for (long i = 0; i < run; i += LANES) store(to + i, load(from + i));
            std::fill(to, patches + (r + 1) * patch_row, 0.0f);
        }
    }

    void spread(long row, long rows) {
        for (long r = 0; r < rows; r++) {
            float* __restrict to = d_image + starts[row + r];
            const float* __restrict from = d_patches + r * patch_row;
            for (long dy = 0; dy < task.tall; dy++, from += run, to += line)
                for (long i = 0; i < run; i++) to[i] += from[i];
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
