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
//   squeeze_excite_dgrad_f32[_x4](dy, g, mean, dx, alpha, columns)
//
// Limit: bytes. 4 and then 8 or 12 an element forward, 8 and then 8 backward. Geometry: sums and maps as in columns.cuh, an image a
// group; the gate is a block an image, with a vector of c and one of hidden numbers in shared memory.

#include "columns.cuh"
#include "functions.cuh"

struct Gate {
    unsigned n, c, hidden, slices;
    float pixels;
};

// The sum of the slices of partial[slice, n, c].
__device__ inline float total(const float *partial, unsigned n, unsigned c, const Gate &g) {
    float sum = 0.0f;
    for (unsigned slice = 0; slice < g.slices; ++slice) sum += partial[(slice * g.n + n) * g.c + c];
    return sum;
}

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_fprop_f32_gate(const float *__restrict__ partial, const float *__restrict__ w0, const float *__restrict__ b0,
                                  const float *__restrict__ w2, const float *__restrict__ b2, float *p, float *s, float *g, Gate gate) {
    extern __shared__ float means[];
    float *inner = means + gate.c;
    const unsigned n = blockIdx.x, lane = threadIdx.x % 32, c = gate.c, hidden = gate.hidden;
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        means[k] = total(partial, n, k, gate) / gate.pixels;
        p[n * c + k] = means[k];
    }
    __syncthreads();
    // A warp for each hidden unit.
    for (unsigned j = threadIdx.x / 32; j < hidden; j += blockDim.x / 32) {
        float sum = 0.0f;
        for (unsigned k = lane; k < c; k += 32) sum += means[k] * w0[k * hidden + j];
        sum = warp_sum(sum);
        if (lane == 0) {
            inner[j] = fmaxf(sum + b0[j], 0.0f);
            s[n * hidden + j] = inner[j];
        }
    }
    __syncthreads();
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        float sum = 0.0f;
        for (unsigned j = 0; j < hidden; ++j) sum += inner[j] * w2[j * c + k];
        g[n * c + k] = sigmoid(sum + b2[k]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    squeeze_excite_dgrad_f32_gate(const float *__restrict__ partial, const float *__restrict__ w0, const float *__restrict__ w2,
                                  const float *__restrict__ s, const float *__restrict__ g, float *ds, float *dg, float *mean,
                                  float alpha, Gate gate) {
    extern __shared__ float slopes[];
    float *inner = slopes + gate.c;
    const unsigned n = blockIdx.x, lane = threadIdx.x % 32, c = gate.c, hidden = gate.hidden;
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        const float open = g[n * c + k];
        slopes[k] = alpha * total(partial, n, k, gate) * open * (1.0f - open);
        dg[n * c + k] = slopes[k];
    }
    __syncthreads();
    for (unsigned j = threadIdx.x / 32; j < hidden; j += blockDim.x / 32) {
        float sum = 0.0f;
        for (unsigned k = lane; k < c; k += 32) sum += slopes[k] * w2[j * c + k];
        sum = warp_sum(sum);
        if (lane == 0) {
            inner[j] = s[n * hidden + j] > 0.0f ? sum : 0.0f;
            ds[n * hidden + j] = inner[j];
        }
    }
    __syncthreads();
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        float sum = 0.0f;
        for (unsigned j = 0; j < hidden; ++j) sum += inner[j] * w0[k * hidden + j];
        mean[n * c + k] = sum / gate.pixels;
    }
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
