// Resampling of x[n, h, w, c] by a factor of 2, each channel by itself, y = A x and dx = A^T dy:
//
//   resample_f32_avg_pool[_x4]   y[n, i, j, c] = mean of x[n, 2i .. 2i + 2, 2j .. 2j + 2, c]; an odd last row or column is dropped
//   resample_f32_nearest[_x4]    y[n, i, j, c] = x[n, i / 2, j / 2, c]
//   resample_f32_bilinear[_x4]   y[n, i, j, c] reads position i (h - 1) / (2h - 1) of the rows, likewise of the columns
//   resample_f32_<map>_h, resample_dgrad_f32_<map>_h     as (from, to, n, h, w, c, narrow), see stored.cuh, units of eight
//   resample_dgrad_f32_<map>[_x4]        the transposes, each as a gather: no two threads write one number
//
// All take (from, to, n, h, w, c) with the extents of x and c in units of the vector.
//
// Limit: bytes, 5 or 20 an element of the smaller and larger image, half of that in bf16. Geometry: a thread a unit of the result, 256 a block.

#include "bilinear.cuh"
#include "stored.cuh"

struct Image {
    unsigned n, h, w, c;
};

// Where an element of an image lies.
struct Pixel {
    unsigned n, i, j, c;

    __device__ Pixel(unsigned element, unsigned h, unsigned w, unsigned channels) {
        c = element % channels, element /= channels;
        j = element % w, element /= w;
        i = element % h, n = element / h;
    }
};

__device__ inline unsigned element(unsigned n, unsigned i, unsigned j, unsigned c, unsigned h, unsigned w, unsigned channels) {
    return ((n * h + i) * w + j) * channels + c;
}

template <int V>
__device__ inline void add(Pack<V> &sum, float weight, const Pack<V> &pack) {
#pragma unroll
    for (int k = 0; k < V; ++k) sum.v[k] += weight * pack.v[k];
}

// y[n, i, j] = sum over a 2x2 window of weight x; the window's corner is at (2i, 2j) of an image of h x w.
template <int V, class X, class Y>
__device__ inline void gather(X x, Y y, unsigned at, unsigned h, unsigned w, unsigned oh, unsigned ow, unsigned c,
                              float weight) {
    const Pixel p(at, oh, ow, c);
    Pack<V> sum = {};
#pragma unroll
    for (int di = 0; di < 2; ++di)
#pragma unroll
        for (int dj = 0; dj < 2; ++dj) add(sum, weight, load<V>(x, element(p.n, 2 * p.i + di, 2 * p.j + dj, p.c, h, w, c)));
    store<V>(y, at, sum);
}

// y[n, i, j] = weight x[n, i / 2, j / 2], zero where x ends.
template <int V, class X, class Y>
__device__ inline void spread(X x, Y y, unsigned at, unsigned h, unsigned w, unsigned oh, unsigned ow, unsigned c,
                              float weight) {
    const Pixel p(at, oh, ow, c);
    Pack<V> sum = {};
    if (p.i / 2 < h && p.j / 2 < w) add(sum, weight, load<V>(x, element(p.n, p.i / 2, p.j / 2, p.c, h, w, c)));
    store<V>(y, at, sum);
}

template <int V, class X, class Y>
__device__ inline void bilinear(X x, Y y, unsigned at, const Image &g) {
    const Pixel p(at, 2 * g.h, 2 * g.w, g.c);
    const Taps rows(p.i, g.h), columns(p.j, g.w);
    Pack<V> sum = {};
    add(sum, rows.before * columns.before, load<V>(x, element(p.n, rows.first, columns.first, p.c, g.h, g.w, g.c)));
    add(sum, rows.before * columns.behind, load<V>(x, element(p.n, rows.first, columns.second, p.c, g.h, g.w, g.c)));
    add(sum, rows.behind * columns.before, load<V>(x, element(p.n, rows.second, columns.first, p.c, g.h, g.w, g.c)));
    add(sum, rows.behind * columns.behind, load<V>(x, element(p.n, rows.second, columns.second, p.c, g.h, g.w, g.c)));
    store<V>(y, at, sum);
}

template <int V, class X, class Y>
__device__ inline void bilinear_dgrad(X dy, Y dx, unsigned at, const Image &g) {
    const Pixel p(at, g.h, g.w, g.c);
    Pack<V> sum = {};
    const unsigned top = max(2 * p.i, 2u) - 2, bottom = min(2 * p.i + 3, 2 * g.h);
    const unsigned left = max(2 * p.j, 2u) - 2, right = min(2 * p.j + 3, 2 * g.w);
    for (unsigned i = top; i < bottom; ++i) {
        const float row = Taps(i, g.h).weight(p.i);
        if (row == 0.0f) continue;
        for (unsigned j = left; j < right; ++j) {
            const float weight = row * Taps(j, g.w).weight(p.j);
            if (weight != 0.0f) add(sum, weight, load<V>(dy, element(p.n, i, j, p.c, 2 * g.h, 2 * g.w, g.c)));
        }
    }
    store<V>(dx, at, sum);
}

// A kernel with a thread for each of n x h x w x c units of the result.
#define MAP(name, h, w, body)                                                                              \
    extern "C" __global__ void name(const float *__restrict__ from, float *__restrict__ to, Image g) {     \
        const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;                                         \
        if (at < g.n * (h) * (w) * g.c) body;                                                              \
    }

// As above, with tensors whose storage the launch chooses.
#define MAP_H(name, h, w, body)                                                                              \
    extern "C" __global__ void name(const void *source, void *target, Image g, unsigned narrow) {            \
        const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;                                           \
        const Source from(source, narrow & 1);                                                               \
        const Target to(target, narrow & 2);                                                                 \
        if (at < g.n * (h) * (w) * g.c) body;                                                                \
    }

#define RESAMPLE(MAP, suffix, V)                                                                                                       \
    MAP(resample_f32_avg_pool##suffix, g.h / 2, g.w / 2, gather<V>(from, to, at, g.h, g.w, g.h / 2, g.w / 2, g.c, 0.25f))              \
    MAP(resample_f32_nearest##suffix, 2 * g.h, 2 * g.w, spread<V>(from, to, at, g.h, g.w, 2 * g.h, 2 * g.w, g.c, 1.0f))                \
    MAP(resample_f32_bilinear##suffix, 2 * g.h, 2 * g.w, bilinear<V>(from, to, at, g))                                                 \
    MAP(resample_dgrad_f32_avg_pool##suffix, g.h, g.w, spread<V>(from, to, at, g.h / 2, g.w / 2, g.h, g.w, g.c, 0.25f))                \
    MAP(resample_dgrad_f32_nearest##suffix, g.h, g.w, gather<V>(from, to, at, 2 * g.h, 2 * g.w, g.h, g.w, g.c, 1.0f))                  \
    MAP(resample_dgrad_f32_bilinear##suffix, g.h, g.w, bilinear_dgrad<V>(from, to, at, g))

RESAMPLE(MAP, , 1)
RESAMPLE(MAP, _x4, 4)
RESAMPLE(MAP_H, _h, 8)
