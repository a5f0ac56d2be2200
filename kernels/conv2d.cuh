// The three passes of a convolution as implicit matrix products: no matrix of patches is ever stored.
//
//   fprop   y[p, o]  = sum over k = (tap, i) of act(x[source(p, tap), i]) w[tap, i, o]      rows: pixels p = (n, oy, ox) of y
//   dgrad   dx[q, i] = sum over k = (tap, o) of dy[source(q, tap), o] wt[tap, o, i]         rows: pixels q = (n, iy, ix) of x
//   wgrad   dw[(tap, i), o] = sum over p of act(x[source(p, tap), i]) dy[p, o]              rows: (tap, i)
//
// x [n, h, w, cin], y and dy [n, oh, ow, cout], w [kh, kw, cin, cout], wt [kh, kw, cout, cin]; iy = oy stride - pad + ky dilation; what
// lies outside an image is zero.
//
// dgrad with a stride: the pixels of x whose coordinates leave the same rest modulo the stride are read by the same taps, whole steps
// apart. Each such phase (blockIdx.z) is a product of its own with those taps alone, so no multiplication by a zero between the
// pixels of dy is ever made. fprop is the case of one phase and all taps, which is why both are one walk.
//
// A product may have a second source, read by a 1x1 window, whose terms go into the same sums: the other part of a concatenation that
// is never made, or the skip of a residual block. fprop may also average 2x2 pixels before it stores them: its rows then come window by
// window, four to each, so that a tile holds whole windows. The gradient of that reads dy as if it still had a pixel for each of y.
#pragma once

#include "conv2d_ends.cuh"
#include "tiles.cuh"

// One axis of a walk: destination a reads source a * scale + start + j * step for the taps first + j * every, j < count.
struct Axis {
    int rows;                // destinations of this phase
    int to_scale, to_start;  // destination a is pixel a * to_scale + to_start
    int scale, start, step;
    int first, every, count;
};

__device__ inline Axis forward_axis(int output, int stride, int dilation, int pad, int taps) {
    return {output, 1, 0, stride, -pad, dilation, 0, 1, taps};
}

__device__ inline Axis backward_axis(int input, int phase, int stride, int dilation, int pad, int taps) {
    Axis axis = {(input - phase + stride - 1) / stride, stride, phase, 1, 0, 0, 0, 0, 0};
    for (int tap = 0; tap < taps; ++tap) {
        // Pixel a * stride + phase of x is read through this tap by y's pixel a + from / stride, if that is whole.
        const int from = phase + pad - tap * dilation;
        if (from % stride != 0) continue;
        if (axis.count == 0) {
            axis.first = tap;
            axis.start = from / stride;
        } else if (axis.count == 1) {
            axis.every = tap - axis.first;
            axis.step = from / stride - axis.start;
        }
        ++axis.count;
    }
    return axis;
}

// A walk over the pixels of a destination, each of which reads a window of a source. It stands in shared memory, the tensors with it:
// they are the same for all threads, and the sums leave no registers for them.
struct Walk {
    int n, h, w, channels;  // source
    int to_h, to_w;         // destination
    int kw;
    Axis y, x;
    int halved;             // 1 if the source has one pixel for each 2x2 that the walk names
    int pooled;             // 1 if rows come window by window of 2x2 and the destination has a pixel for each window
    const float *source;
    const float *weights;   // rows (tap, channel)
    int all;                // whether their taps are the walk's
    __device__ void read(const float *from, const float *by, bool all_taps) {
        source = from;
        weights = by;
        all = all_taps;
    }
    __device__ int rows() const { return n * y.rows * x.rows; }
    __device__ int depth() const { return y.count * x.count * channels; }
};

// With `pooled` an odd last row or column of y is dropped.
__device__ inline Walk forward(const Conv &c, int pooled) {
    return {c.n, c.h, c.w, c.cin, c.oh, c.ow, c.kw,
            forward_axis(c.oh >> pooled << pooled, c.stride, c.dilation, c.pad_top, c.kh),
            forward_axis(c.ow >> pooled << pooled, c.stride, c.dilation, c.pad_left, c.kw), 0, pooled};
}

__device__ inline Walk backward(const Conv &c, int phase, int halved) {
    return {c.n, c.oh >> halved, c.ow >> halved, c.cout, c.h, c.w, c.kw,
            backward_axis(c.h, phase / c.stride, c.stride, c.dilation, c.pad_top, c.kh),
            backward_axis(c.w, phase % c.stride, c.stride, c.dilation, c.pad_left, c.kw), halved, 0};
}

// The same destinations, each reading its own pixel of a source of `channels`.
__device__ inline Walk beside(const Walk &walk, int channels, int halved) {
    return {walk.n, walk.to_h >> halved, walk.to_w >> halved, channels, walk.to_h, walk.to_w, 1, forward_axis(walk.y.rows, 1, 1, 0, 1), forward_axis(walk.x.rows, 1, 1, 0, 1),
            halved, walk.pooled};
}

// Row m of a walk: x the first pixel of the source image, y and z the source coordinates of the window's first tap, w the pixel of the
// destination, or -1 where there is no such row; no tap of that lies inside.
__device__ inline int4 walk_row(const Walk &walk, int m) {
    if (m >= walk.rows()) return {0, -(1 << 29), 0, -1};
    if (walk.pooled) {
        const int window = m / 4, across = walk.x.rows / 2, down = walk.y.rows / 2, image = window / across / down;
        const int a = window / across % down * 2 + m / 2 % 2, b = window % across * 2 + m % 2;
        return {image * walk.h * walk.w, a * walk.y.scale + walk.y.start, b * walk.x.scale + walk.x.start, window};
    }
    const int b = m % walk.x.rows, a = m / walk.x.rows % walk.y.rows, image = m / walk.x.rows / walk.y.rows;
    return {image * walk.h * walk.w, a * walk.y.scale + walk.y.start, b * walk.x.scale + walk.x.start,
            (image * walk.to_h + a * walk.y.to_scale + walk.y.to_start) * walk.to_w + b * walk.x.to_scale + walk.x.to_start};
}

// a[m, k] of fprop and dgrad, K columns at a time. A thread's numbers stand in one column: it follows the tap and channel of that.
template <class T>
struct Window {
    const Walk &walk;
    const int4 *rows;
    int channel, ky, kx;

    __device__ Window(const Walk &walk, const int4 *rows)
        : walk(walk), rows(rows), channel(T::ShareA::column()), ky(0), kx(0) {
        wrap();
    }

    __device__ void wrap() {
        while (channel >= walk.channels) {
            channel -= walk.channels;
            if (++kx == walk.x.count) {
                kx = 0;
                ++ky;
            }
        }
    }

    template <class Visit>
    __device__ void next(Visit visit) {
        const float *source = walk.source;
        const bool known = ky < walk.y.count;
        const int dy = ky * walk.y.step, dx = kx * walk.x.step;
#pragma unroll
        for (int pass = 0; pass < T::ShareA::PASSES; ++pass) {
            const int4 row = rows[T::ShareA::row(pass)];
            // Unsigned, so that the far rows of no pixel may wrap around, and so that what lies before the image lies far behind it.
            const unsigned y = static_cast<unsigned>(row.y + dy) >> walk.halved, x = static_cast<unsigned>(row.z + dx) >> walk.halved;
            const bool inside = known && y < walk.h && x < walk.w;
            const unsigned at = (row.x + y * walk.w + x) * walk.channels + channel; // source[image, y, x, channel]
            visit(pass, source + (inside ? at : 0), inside);
        }
        channel += T::K;
        wrap();
    }
};

// b[k, n] = data[row(k), n] for k of [k, end), K rows at a time, N columns from `first` on.
template <class T>
struct Rows {
    const float *data;
    const int columns, column, end;
    int k;

    __device__ Rows(const float *data, int columns, int first, int begin, int end)
        : data(data), columns(columns), column(first + T::ShareB::column()), end(end), k(begin) {}

    template <class Visit, class Row>
    __device__ void next(const float *data, Visit visit, Row row) {
#pragma unroll
        for (int pass = 0; pass < T::ShareB::PASSES; ++pass) {
            const int at = k + T::ShareB::row(pass);
            const bool inside = at < end && column < columns;
            const unsigned from = static_cast<unsigned>(row(at)) * columns + column;
            visit(pass, data + (inside ? from : 0), inside);
        }
        k += T::K;
    }

    template <class Visit>
    __device__ void next(Visit visit) {
        next(data, visit, [](int at) { return at; });
    }
};

// The rows of w or wt that belong to a walk's taps.
template <class T>
struct Weights : Rows<T> {
    const Walk &walk;

    __device__ Weights(const Walk &walk, int columns, int first) : Rows<T>(nullptr, columns, first, 0, walk.depth()), walk(walk) {}

    template <class Visit>
    __device__ void next(Visit visit) {
        Rows<T>::next(walk.weights, visit, [this](int k) {
            if (walk.all) return k;
            const int j = k / walk.channels;
            const int ky = walk.y.first + j / walk.x.count * walk.y.every, kx = walk.x.first + j % walk.x.count * walk.x.every;
            return (ky * walk.kw + kx) * walk.channels + k % walk.channels;
        });
    }
};

// a[p, (tap, i)] of wgrad, K pixels at a time, stored [K][M]. A thread's numbers stand in one column, so its tap and channel are fixed;
// it follows the pixel from pass to pass, and after the last one stands where the next step begins.
template <class T>
struct Patches {
    const float *x;
    const Conv &c;
    const int end;
    int p, image, oy, ox; // image: its first pixel in x
    int dy, dx, channel;
    bool known;

    __device__ Patches(const float *x, const Conv &c, int m0, int begin, int end) : x(x), c(c), end(end), p(begin + T::ShareA::row(0)) {
        const int m = m0 + T::ShareA::column(), tap = m / c.cin;
        channel = m % c.cin;
        dy = tap / c.kw * c.dilation - c.pad_top;
        dx = tap % c.kw * c.dilation - c.pad_left;
        known = tap < c.kh * c.kw;
        ox = p % c.ow;
        oy = p / c.ow % c.oh;
        image = p / c.ow / c.oh * c.h * c.w;
    }

    template <class Visit>
    __device__ void next(Visit visit) {
#pragma unroll
        for (int pass = 0; pass < T::ShareA::PASSES; ++pass) {
            const int iy = oy * c.stride + dy, ix = ox * c.stride + dx;
            const bool inside = known && p < end && static_cast<unsigned>(iy) < c.h && static_cast<unsigned>(ix) < c.w;
            // x[image, iy, ix, channel]
            const unsigned at = (image + static_cast<unsigned>(iy) * c.w + ix) * c.cin + channel;
            visit(pass, x + (inside ? at : 0), inside);
            p += T::ShareA::STEP;
            ox += T::ShareA::STEP;
            while (ox >= c.ow) {
                ox -= c.ow;
                if (++oy == c.oh) {
                    oy = 0;
                    image += c.h * c.w;
                }
            }
        }
    }
};

// The dynamic shared memory of a block: the stages, and the sums after them in their place.
extern __shared__ __align__(16) unsigned char dynamic_shared[];

template <class T>
__device__ inline void multiply_walk(const Walk &walk, int columns, int4 *rows, int m0, int n0, unsigned activation,
                                     float (&sum)[T::SUMS]) {
    for (int r = threadIdx.x; r < T::M; r += T::THREADS) rows[r] = walk_row(walk, m0 + r);
    __syncthreads();
    Window<T> a(walk, rows);
    Weights<T> b(walk, columns, n0);
    const int steps = (walk.depth() + T::K - 1) / T::K;
    multiply<T>(reinterpret_cast<typename T::Element *>(dynamic_shared), a, b, activation, steps, sum);
}

// What is the same for all threads of a block, and too much for the registers of each.
template <class T>
struct Common {
    int4 rows[T::M];
    Walk walk;
    int source; // of the products: 0, or 1 beside it
    int n0;     // the first column
};

// y = post(conv(pre(x), w) + x2 w2 + bias + residual), x2 [n, oh, ow, channels] or null; with `pooled` the products are averaged over 2x2
// pixels. Blocks that share pixels are neighbours: x is read from L2 again, not from memory.
template <class T>
__device__ inline void fprop(const float *x, const float *w, const float *x2, const float *w2, const float *bias, const float *residual,
                             float *y, float *after, const Conv &c, int channels, int pooled, unsigned pre, unsigned post) {
    __shared__ Common<T> block;
    if (threadIdx.x == 0) {
        block.source = 0;
        block.n0 = blockIdx.x % ((c.cout + T::N - 1) / T::N) * T::N;
        block.walk = forward(c, pooled);
        block.walk.read(x, w, true);
    }
    float sum[T::SUMS] = {};
#pragma unroll 1 // the loop of products stands once
    do {
        __syncthreads();
        const int m0 = blockIdx.x / ((c.cout + T::N - 1) / T::N) * T::M;
        multiply_walk<T>(block.walk, c.cout, block.rows, m0, block.n0, block.source == 0 ? pre : 0, sum);
        __syncthreads();
        if (threadIdx.x == 0 && ++block.source == 1) {
            block.walk = beside(block.walk, channels, 0);
            block.walk.read(x2, w2, true);
        }
        __syncthreads();
    } while (block.source == 1 && x2 != nullptr);
    const FpropEnd end = {bias, residual, y, after, c.cout, post};
    write_out<T>(reinterpret_cast<float *>(dynamic_shared), sum, pooled, [&](int row, int column, const Pack<T::V> &value) {
        Pack<T::V> beside[FpropEnd::READS];
        end.read(block.rows[row].w, block.n0 + column, beside);
        end.finish(block.rows[row].w, block.n0 + column, value, beside);
    });
}

// [dx, dx2] = pre'(x) * (conv^T(dy, w) + dy2 w2^T + residual) + start. Of `halved`, bit 0 says that dy, and bit 1 that dy2, is the
// gradient of 2x2 averages; not both.
template <class T>
__device__ inline void dgrad(const float *dy, const float *wt, const float *dy2, const float *wt2, const float *x, const float *residual,
                             const float *start, float *dx, float *dx2, const Conv &c, int split, int halved, unsigned pre) {
    __shared__ Common<T> block;
    if (threadIdx.x == 0) {
        block.source = dy2 != nullptr ? 1 : 0;
        block.n0 = blockIdx.x % ((c.cin + T::N - 1) / T::N) * T::N;
        block.walk = backward(c, blockIdx.z, halved & 1);
        block.walk.read(dy, wt, c.stride == 1);
        if (dy2 != nullptr) {
            block.walk = beside(block.walk, c.cout, halved >> 1);
            block.walk.read(dy2, wt2, true);
        }
    }
    float sum[T::SUMS] = {};
#pragma unroll 1
    do {
        __syncthreads();
        const int m0 = blockIdx.x / ((c.cin + T::N - 1) / T::N) * T::M;
        if (m0 >= block.walk.rows()) return; // the grid is made for the largest phase
        multiply_walk<T>(block.walk, c.cin, block.rows, m0, block.n0, 0, sum);
        if (block.walk.halved) {
#pragma unroll
            for (int e = 0; e < T::SUMS; ++e) sum[e] *= 0.25f;
        }
        __syncthreads();
        if (threadIdx.x == 0 && --block.source == 0) {
            block.walk = backward(c, blockIdx.z, halved & 1);
            block.walk.read(dy, wt, c.stride == 1);
        }
        __syncthreads();
    } while (block.source == 0);
    const DgradEnd end = {x, residual, start, dx, dx2, c.cin, split, pre};
    write_out<T>(reinterpret_cast<float *>(dynamic_shared), sum, 0, [&](int row, int column, const Pack<T::V> &value) {
        Pack<T::V> beside[DgradEnd::READS];
        end.read(block.rows[row].w, block.n0 + column, beside);
        end.finish(block.rows[row].w, block.n0 + column, value, beside);
    });
}

// part[z, (tap, i), o] = the sum over the pixels [z share, (z + 1) share): dw itself where there is one part.
template <class T>
__device__ inline void wgrad(const float *x, const float *dy, float *part, const Conv &c, unsigned pre, int share) {
    const int across = (c.cout + T::N - 1) / T::N, height = c.kh * c.kw * c.cin;
    const int m0 = blockIdx.x / across * T::M, n0 = blockIdx.x % across * T::N;
    const int begin = blockIdx.z * share, end = min(begin + share, c.n * c.oh * c.ow);
    part += static_cast<size_t>(blockIdx.z) * height * c.cout;
    Patches<T> a(x, c, m0, begin, end);
    Rows<T> b(dy, c.cout, n0, begin, end);
    const int steps = (end - begin + T::K - 1) / T::K;
    float sum[T::SUMS] = {};
    multiply<T>(reinterpret_cast<typename T::Element *>(dynamic_shared), a, b, pre, steps, sum);
    write_out<T>(reinterpret_cast<float *>(dynamic_shared), sum, 0, [&](int row, int column, const Pack<T::V> &value) {
        const int m = m0 + row, o = n0 + column;
        if (m < height && o < c.cout) store_pack<T::V>(&part[m * c.cout + o], value);
    });
}

// The kernels of one precision. By tile: 128x128 for large products, 128x32 for few columns, 64x64 for the rest and for what would leave
// multiprocessors idle; `_any` moves one number at a time, for channels that are no multiple of four. Registers are held to what lets
// 512 threads share a multiprocessor.
#define CONV2D_BOUNDS(T) __launch_bounds__(T::THREADS, 512 / T::THREADS)

#define CONV2D_FPROP(name, T)                                                                                              \
    extern "C" __global__ void CONV2D_BOUNDS(T)                                                                            \
        conv2d_fprop_##name(const float *x, const float *w, const float *x2, const float *w2, const float *bias,           \
                            const float *residual, float *y, float *after, Conv c, int channels, int pooled, unsigned pre, \
                            unsigned post) {                                                                               \
        fprop<T>(x, w, x2, w2, bias, residual, y, after, c, channels, pooled, pre, post);                                  \
    }

#define CONV2D_DGRAD(name, T)                                                                                                \
    extern "C" __global__ void CONV2D_BOUNDS(T)                                                                              \
        conv2d_dgrad_##name(const float *dy, const float *wt, const float *dy2, const float *wt2, const float *x,            \
                            const float *residual, const float *start, float *dx, float *dx2, Conv c, int split, int halved, \
                            unsigned pre) {                                                                                  \
        dgrad<T>(dy, wt, dy2, wt2, x, residual, start, dx, dx2, c, split, halved, pre);                                      \
    }

#define CONV2D_WGRAD(name, T)                                                                                             \
    extern "C" __global__ void CONV2D_BOUNDS(T) conv2d_wgrad_##name(const float *x, const float *dy, float *part, Conv c, \
                                                                    unsigned pre, int share) {                            \
        wgrad<T>(x, dy, part, c, pre, share);                                                                             \
    }

template <class Math, bool TRANSPOSED>
struct Tiles {
    typedef Tile<Math, 64, 64, 32, 32, TRANSPOSED, 1> Any;
    typedef Tile<Math, 64, 64, 32, 32, TRANSPOSED, 4> Small;
    typedef Tile<Math, 128, 32, 32, 32, TRANSPOSED, 4> Narrow;
    typedef Tile<Math, 128, 128, 64, 32, TRANSPOSED, 4> Large;
};

#define CONV2D_KERNELS(precision, Math)                                 \
    typedef Tiles<Math, false> Rowwise;                                 \
    typedef Tiles<Math, true> Transposed;                               \
    CONV2D_FPROP(precision##_64x64_any, Rowwise::Any)                   \
    CONV2D_FPROP(precision##_64x64, Rowwise::Small)                     \
    CONV2D_FPROP(precision##_128x32, Rowwise::Narrow)                   \
    CONV2D_FPROP(precision##_128x128, Rowwise::Large)                   \
    CONV2D_DGRAD(precision##_64x64_any, Rowwise::Any)                   \
    CONV2D_DGRAD(precision##_64x64, Rowwise::Small)                     \
    CONV2D_DGRAD(precision##_128x32, Rowwise::Narrow)                   \
    CONV2D_DGRAD(precision##_128x128, Rowwise::Large)                   \
    CONV2D_WGRAD(precision##_64x64_any, Transposed::Any)                \
    CONV2D_WGRAD(precision##_64x64, Transposed::Small)                  \
    CONV2D_WGRAD(precision##_128x128, Transposed::Large)
