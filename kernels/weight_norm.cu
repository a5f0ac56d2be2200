// Weight normalisation. With v = w mask and o the output channel, the innermost axis, of w[rest, o]:
//
//   norm[o] = |v[:, o]|, gain[o] = exp(log_weight_norm[o]) / (norm[o] + 1e-5)           y = gain v
//   dot[o] = sum of dy v over a filter, radial[o] = gain dot / ((norm + 1e-5) norm), 0 for a filter of zeros
//   dw = mask (gain dy - radial v), dlog_weight_norm[o] = gain dot
//
//   weight_norm_f32[_x4](w, log_weight_norm or null, mask or null, y, columns)
//   weight_norm_dgrad_f32[_x4](dy, w, log_weight_norm or null, mask or null, dw, dlog_weight_norm or null, columns)
//
// where a block holds whole filters. Long filters are cut into slices and take two launches, of which the second is the same with the
// sums from `partial`:
//
//   weight_norm_f32_squares[_x4](w, mask, partial, columns), weight_norm_f32_sliced[_x4](..., partial, columns)
//   weight_norm_dgrad_f32_squares[_x4](dy, w, mask, partial, columns), weight_norm_dgrad_f32_sliced[_x4](..., partial, columns)
//
// _x4 takes four filters at once. Limit: bytes, 12 an element forward (the second reading of w is served by a cache) and 20 backward.
// Geometry: columns.cuh, rows are `rest`.

#include "slices.cuh"

#define NORM_FLOOR 1e-5f

template <int V>
struct Weight {
    const float *w, *mask;

    // v, and the mask that made it.
    __device__ Pack<V> at(unsigned i, Pack<V> &m) const {
        Pack<V> v = load<V>(w, i);
#pragma unroll
        for (int j = 0; j < V; ++j) m.v[j] = 1.0f;
        if (mask) {
            m = load<V>(mask, i);
#pragma unroll
            for (int j = 0; j < V; ++j) v.v[j] *= m.v[j];
        }
        return v;
    }
};

template <int V>
__device__ inline Sums<V> squares(const Walk &walk, const Weight<V> &weight) {
    return sum_rows<V, 4>(walk, [&](unsigned at, Sums<V> &sums) {
        Pack<V> m;
        const Pack<V> v = weight.at(at, m);
#pragma unroll
        for (int j = 0; j < V; ++j) sums.v[j] += v.v[j] * v.v[j];
    });
}

// Squares of v, then its products with dy.
template <int V>
__device__ inline Sums<2 * V> products(const Walk &walk, const Weight<V> &weight, const float *dy) {
    return sum_rows<2 * V, 4>(walk, [&](unsigned at, Sums<2 * V> &sums) {
        Pack<V> m;
        const Pack<V> v = weight.at(at, m), d = load<V>(dy, at);
#pragma unroll
        for (int j = 0; j < V; ++j) sums.v[j] += v.v[j] * v.v[j], sums.v[V + j] += d.v[j] * v.v[j];
    });
}

// exp(log_weight_norm[o]) / divisor.
__device__ inline float gain_of(const float *log_weight_norm, unsigned o, float divisor) {
    return (log_weight_norm ? expf(log_weight_norm[o]) : 1.0f) / divisor;
}

template <int V, bool SLICED>
__device__ inline void forward(const float *w, const float *log_weight_norm, const float *mask, float *y, const float *partial,
                               const Columns &c) {
    __shared__ Sums<V> room[COLUMN_THREADS / 2];
    __shared__ Pack<V> gains[COLUMN_THREADS / 2];
    const Walk walk(c);
    const Weight<V> weight = {w, mask};
    Sums<V> sums = SLICED ? load_slices<V, V>(partial, walk, c) : squares(walk, weight);
    join_rows(sums, c.width, room);
    if (walk.leads(c)) {
#pragma unroll
        for (int j = 0; j < V; ++j)
            gains[threadIdx.x].v[j] = gain_of(log_weight_norm, walk.column * V + j, sqrtf(sums.v[j]) + NORM_FLOOR);
    }
    __syncthreads();
    if (!walk.inside()) return;
    const Pack<V> gain = gains[threadIdx.x % c.width];
#pragma unroll 4
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> m, v = weight.at(walk.at(row), m);
#pragma unroll
        for (int j = 0; j < V; ++j) v.v[j] *= gain.v[j];
        store<V>(y, walk.at(row), v);
    }
}

template <int V, bool SLICED>
__device__ inline void backward(const float *dy, const float *w, const float *log_weight_norm, const float *mask, float *dw,
                                float *dlog_weight_norm, const float *partial, const Columns &c) {
    __shared__ Sums<2 * V> room[COLUMN_THREADS / 2];
    // The gains of the block's columns, then their radial parts.
    __shared__ Pack<V> factors[2][COLUMN_THREADS / 2];
    const Walk walk(c);
    const Weight<V> weight = {w, mask};
    Sums<2 * V> sums = SLICED ? load_slices<2 * V, V>(partial, walk, c) : products(walk, weight, dy);
    join_rows(sums, c.width, room);
    if (walk.leads(c)) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const unsigned o = walk.column * V + j;
            const float norm = sqrtf(sums.v[j]), divisor = norm + NORM_FLOOR;
            const float gain = gain_of(log_weight_norm, o, divisor), slope = gain * sums.v[V + j];
            factors[0][threadIdx.x].v[j] = gain;
            factors[1][threadIdx.x].v[j] = norm > 0.0f ? slope / (divisor * norm) : 0.0f;
            if (dlog_weight_norm && blockIdx.y == 0) dlog_weight_norm[o] = slope;
        }
    }
    __syncthreads();
    if (!walk.inside()) return;
    const Pack<V> gain = factors[0][threadIdx.x % c.width], radial = factors[1][threadIdx.x % c.width];
#pragma unroll 2
    for (unsigned row = walk.first; row < walk.last; row += walk.step) {
        Pack<V> m;
        const Pack<V> v = weight.at(walk.at(row), m), d = load<V>(dy, walk.at(row));
        Pack<V> to;
#pragma unroll
        for (int j = 0; j < V; ++j) to.v[j] = (gain.v[j] * d.v[j] - radial.v[j] * v.v[j]) * m.v[j];
        store<V>(dw, walk.at(row), to);
    }
}

template <int N, int V>
__device__ inline void leave(float *partial, const Walk &walk, const Columns &c, Sums<N> own) {
    __shared__ Sums<N> room[COLUMN_THREADS / 2];
    join_rows(own, c.width, room);
    if (walk.leads(c)) store_slice<N, V>(partial, walk, c, own);
}

#define WEIGHT_NORM(name, V)                                                                                                            \
    extern "C" __global__ void weight_norm_f32##name(const float *w, const float *log_weight_norm, const float *mask, float *y,         \
                                                     Columns c) {                                                                       \
        forward<V, false>(w, log_weight_norm, mask, y, nullptr, c);                                                                     \
    }                                                                                                                                   \
    extern "C" __global__ void weight_norm_f32_squares##name(const float *w, const float *mask, float *partial, Columns c) {            \
        const Walk walk(c);                                                                                                             \
        leave<V, V>(partial, walk, c, squares(walk, Weight<V>{w, mask}));                                                               \
    }                                                                                                                                   \
    extern "C" __global__ void weight_norm_f32_sliced##name(const float *w, const float *log_weight_norm, const float *mask, float *y,  \
                                                            const float *partial, Columns c) {                                          \
        forward<V, true>(w, log_weight_norm, mask, y, partial, c);                                                                      \
    }                                                                                                                                   \
    extern "C" __global__ void weight_norm_dgrad_f32##name(const float *dy, const float *w, const float *log_weight_norm,               \
                                                           const float *mask, float *dw, float *dlog_weight_norm, Columns c) {          \
        backward<V, false>(dy, w, log_weight_norm, mask, dw, dlog_weight_norm, nullptr, c);                                             \
    }                                                                                                                                   \
    extern "C" __global__ void weight_norm_dgrad_f32_squares##name(const float *dy, const float *w, const float *mask, float *partial,  \
                                                                   Columns c) {                                                         \
        const Walk walk(c);                                                                                                             \
        leave<2 * V, V>(partial, walk, c, products(walk, Weight<V>{w, mask}, dy));                                                      \
    }                                                                                                                                   \
    extern "C" __global__ void weight_norm_dgrad_f32_sliced##name(const float *dy, const float *w, const float *log_weight_norm,        \
                                                                  const float *mask, float *dw, float *dlog_weight_norm,                \
                                                                  const float *partial, Columns c) {                                    \
        backward<V, true>(dy, w, log_weight_norm, mask, dw, dlog_weight_norm, partial, c);                                              \
    }

WEIGHT_NORM(, 1)
WEIGHT_NORM(_x4, 4)
