// Squeeze-and-excite with the residual sum behind it:
//
//   p[n, c] = mean of x[n, :, :, c]     s = relu(p w0 + b0)     g = sigma(s w2 + b2)     y = skip + alpha x g
//   dg = g (1 - g) alpha sum over pixels of dy x     ds = [s > 0] (dg w2^T)     dx = alpha dy g + ds w0^T / pixels
//
// x [n, pixels, c], w0 [c, hidden], w2 [hidden, c]. Three launches each:
//
//   squeeze_excite_fprop_f32_sums[_x4](x, partial, columns)            squeeze_excite_dgrad_f32_sums[_x4](dy, x, partial, columns)
//   squeeze_excite_fprop_f32_gate(partial, w0, b0, w2, b2, p, s, g, gate)
//   squeeze_excite_dgrad_f32_gate(partial, w0, w2, s, g, ds, dg, mean, alpha, gate)     mean [n, c] = ds w0^T / pixels
//   squeeze_excite_fprop_f32[_x4](x, g, skip, y, alpha, columns)       skip may be null
//   squeeze_excite_fprop_f32_gated(partial, w0, b0, w2, b2, x, skip, y, s, g, alpha, pixels, rows, gate)    gate and sum in one
//   squeeze_excite_fprop_f32_gated_up(..., skip, y, s, g, alpha, pixels, rows, h, w, gate)    skip [n, h, w, c], enlarged to x's 2h x 2w
//   squeeze_excite_dgrad_f32[_x4](dy, g, mean, dx, alpha, columns)
//
// Limit: bytes. 4 and then 8 or 12 an element forward, 8 and then 8 backward. Geometry: sums and maps as in columns.cuh, an image a
// group; the gate is a block an image, with a vector of c and one of hidden numbers in shared memory.

#include "bilinear.cuh"
#include "columns.cuh"
#include "squeeze_excite.cuh"

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_fprop_f32_gate(const float *partial, const float *w0, const float *b0, const float *w2, const float *b2, float *p,
                                  float *s, float *g, Gate gate) {
    extern __shared__ __align__(16) float means[];
    float *inner = means + gate.c;
    const unsigned n = blockIdx.x;
    gate_fprop({partial, w0, b0, w2, b2, nullptr, nullptr}, n, gate, means, inner, g + n * gate.c);
    for (unsigned k = threadIdx.x; k < gate.c; k += blockDim.x) p[n * gate.c + k] = means[k];
    for (unsigned j = threadIdx.x; j < gate.hidden; j += blockDim.x) s[n * gate.hidden + j] = inner[j];
}

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_dgrad_f32_gate(const float *partial, const float *w0, const float *w2, const float *s, const float *g, float *ds,
                                  float *dg, float *mean, float alpha, Gate gate) {
    extern __shared__ float slopes[];
    float *inner = slopes + gate.c;
    const unsigned n = blockIdx.x;
    gate_dgrad({partial, w0, nullptr, w2, nullptr, s, g}, n, alpha, gate, slopes, inner,
               [&](unsigned k, float m) { mean[n * gate.c + k] = m; });
    for (unsigned k = threadIdx.x; k < gate.c; k += blockDim.x) dg[n * gate.c + k] = slopes[k];
    for (unsigned j = threadIdx.x; j < gate.hidden; j += blockDim.x) ds[n * gate.hidden + j] = inner[j];
}

// y = skip + alpha x g, where every block makes its image's gate anew in less time than a launch of
// its own takes to begin. blockIdx.x = a piece of `rows` pixels, blockIdx.y = n; the first block of an image writes s and g. c is a multiple
// of 4 and at most 1024; a thread keeps its four channels.
template <class Skip>
__device__ inline void excite_gated(const SqueezeExcite &of, const float *x, Skip skip, float *y, float *s, float *g, float alpha,
                                    unsigned pixels, unsigned rows, const Gate &gate) {
    extern __shared__ __align__(16) float vectors[];
    float *means = vectors, *open = means + gate.c, *inner = open + gate.c;
    const unsigned n = blockIdx.y;
    gate_fprop(of, n, gate, means, inner, open);
    __syncthreads();
    const unsigned fours = gate.c / 4, step = blockDim.x / fours, column = threadIdx.x % fours;
    if (blockIdx.x == 0) {
        for (unsigned i = threadIdx.x; i < fours; i += blockDim.x) store<4>(g, n * fours + i, load<4>(open, i));
        for (unsigned j = threadIdx.x; j < gate.hidden; j += blockDim.x) s[n * gate.hidden + j] = inner[j];
    }
    if (threadIdx.x / fours >= step) return;
    Pack<4> factor = load<4>(open, column);
#pragma unroll
    for (int j = 0; j < 4; ++j) factor.v[j] *= alpha;
    const unsigned last = min(blockIdx.x * rows + rows, pixels);
#pragma unroll 4
    for (unsigned row = blockIdx.x * rows + threadIdx.x / fours; row < last; row += step) {
        const unsigned at = (n * pixels + row) * fours + column;
        const Pack<4> inside = load<4>(x, at);
        Pack<4> sum = skip(n, row, column, fours);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.v[j] += factor.v[j] * inside.v[j];
        store<4>(y, at, sum);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_fprop_f32_gated(const float *partial, const float *w0, const float *b0, const float *w2, const float *b2, const float *x,
                                   const float *skip, float *y, float *s, float *g, float alpha, unsigned pixels, unsigned rows, Gate gate) {
    const auto same = [&](unsigned n, unsigned row, unsigned column, unsigned fours) {
        return load<4>(skip, (n * pixels + row) * fours + column);
    };
    excite_gated({partial, w0, b0, w2, b2, nullptr, nullptr}, x, same, y, s, g, alpha, pixels, rows, gate);
}

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_fprop_f32_gated_up(const float *partial, const float *w0, const float *b0, const float *w2, const float *b2,
                                      const float *x, const float *skip, float *y, float *s, float *g, float alpha, unsigned pixels,
                                      unsigned rows, unsigned h, unsigned w, Gate gate) {
    const auto enlarged = [&](unsigned n, unsigned row, unsigned column, unsigned fours) {
        const Taps down(row / (2 * w), h), across(row % (2 * w), w);
        const auto corner = [&](unsigned i, unsigned j) { return load<4>(skip, ((n * h + i) * w + j) * fours + column); };
        const Pack<4> corners[4] = {corner(down.first, across.first), corner(down.first, across.second),
                                    corner(down.second, across.first), corner(down.second, across.second)};
        Pack<4> sum;
#pragma unroll
        for (int j = 0; j < 4; ++j)
            sum.v[j] = down.before * (across.before * corners[0].v[j] + across.behind * corners[1].v[j]) +
                       down.behind * (across.before * corners[2].v[j] + across.behind * corners[3].v[j]);
        return sum;
    };
    excite_gated({partial, w0, b0, w2, b2, nullptr, nullptr}, x, enlarged, y, s, g, alpha, pixels, rows, gate);
}

// partial[slice, n, c] = sum over pixels of dy x.
template <int V>
__device__ inline void product_sums(const float *__restrict__ dy, const float *__restrict__ x, float *partial, const Columns &c) {
    __shared__ Sums<V> room[COLUMN_THREADS / 2];
    const Walk walk(c);
    Sums<V> own = sum_rows<V, 4>(walk, [&](unsigned at, Sums<V> &sums) {
        const Pack<V> outer = load<V>(dy, at), inner = load<V>(x, at);
#pragma unroll
        for (int j = 0; j < V; ++j) sums.v[j] += outer.v[j] * inner.v[j];
    });
    join_rows(own, c.width, room);
    if (walk.leads(c)) store<V>(partial, walk.partial(c), pack_of<V>(own, 0));
}

template <int V>
__device__ inline void excite(const float *__restrict__ x, const float *g, const float *__restrict__ skip, float *__restrict__ y,
                              float alpha, const Columns &c) {
    const Walk walk(c);
    if (!walk.inside()) return;
    Pack<V> factor = load<V>(g, walk.group * c.columns + walk.column);
#pragma unroll
    for (int j = 0; j < V; ++j) factor.v[j] *= alpha;
#pragma unroll 4
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        const Pack<V> inner = load<V>(x, walk.at(row));
        Pack<V> sum = {};
        if (skip) sum = load<V>(skip, walk.at(row));
#pragma unroll
        for (int j = 0; j < V; ++j) sum.v[j] += factor.v[j] * inner.v[j];
        store<V>(y, walk.at(row), sum);
    }
}

template <int V>
__device__ inline void excite_dgrad(const float *__restrict__ dy, const float *g, const float *mean, float *__restrict__ dx, float alpha,
                                    const Columns &c) {
    const Walk walk(c);
    if (!walk.inside()) return;
    Pack<V> factor = load<V>(g, walk.group * c.columns + walk.column);
    const Pack<V> through = load<V>(mean, walk.group * c.columns + walk.column);
#pragma unroll
    for (int j = 0; j < V; ++j) factor.v[j] *= alpha;
#pragma unroll 4
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> pack = load<V>(dy, walk.at(row));
#pragma unroll
        for (int j = 0; j < V; ++j) pack.v[j] = factor.v[j] * pack.v[j] + through.v[j];
        store<V>(dx, walk.at(row), pack);
    }
}

#define KERNEL extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)

#define SQUEEZE_EXCITE(name, V)                                                                                               \
    KERNEL squeeze_excite_fprop_f32_sums##name(const float *x, float *partial, Columns c) { column_sums<V>(x, partial, c); }  \
    KERNEL squeeze_excite_dgrad_f32_sums##name(const float *dy, const float *x, float *partial, Columns c) {                  \
        product_sums<V>(dy, x, partial, c);                                                                                   \
    }                                                                                                                         \
    KERNEL squeeze_excite_fprop_f32##name(const float *x, const float *g, const float *skip, float *y, float alpha,           \
                                          Columns c) {                                                                        \
        excite<V>(x, g, skip, y, alpha, c);                                                                                   \
    }                                                                                                                         \
    KERNEL squeeze_excite_dgrad_f32##name(const float *dy, const float *g, const float *mean, float *dx, float alpha,         \
                                          Columns c) {                                                                        \
        excite_dgrad<V>(dy, g, mean, dx, alpha, c);                                                                           \
    }

SQUEEZE_EXCITE(, 1)
SQUEEZE_EXCITE(_x4, 4)
