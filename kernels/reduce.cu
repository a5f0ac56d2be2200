// y[n] = scale * sum over e of x[n, e], and its transpose x[n, e] = scale * y[n]; a sum over everything is one row.
//
//   reduce_f32[_x4](x, y, row, scale)                    a block a row
//   reduce_f32_slices[_x4](x, partial, row, slice)       a block a slice of a row: partial[n, slice] in f64
//   reduce_f32_finish(partial, y, n, slices, scale)      a warp a row
//   reduce_dgrad_f32[_x4](y, x, n, row, scale)           a thread an element; n counts those of x
//
// _x4 takes four neighbours at once, for rows that are a multiple of four; row, slice and n count elements in all of them.
//
// Limit: bytes, 4 an element. Totals are in f64, as on the CPU: these sums are losses and log-densities, of which small differences matter,
// and one f64 addition per 4 bytes read is hidden even where f64 runs at 1/64 of the rate.

#include "reduce.cuh"
#include "vector.cuh"

// The sum of x[first .. last] over the block, in every thread.
template <int V>
__device__ inline double range_sum(const float *__restrict__ x, unsigned first, unsigned last) {
    __shared__ double room[32];
    double sum = 0.0;
#pragma unroll 4
    for (unsigned i = first / V + threadIdx.x; i < last / V; i += blockDim.x) {
        const Pack<V> pack = load<V>(x, i);
        double part = pack.v[0];
#pragma unroll
        for (int j = 1; j < V; ++j) part += pack.v[j];
        sum += part;
    }
    return block_sum(sum, room);
}

template <int V>
__device__ inline void reduce(const float *x, float *y, unsigned row, float scale) {
    const double sum = range_sum<V>(x, blockIdx.x * row, (blockIdx.x + 1) * row);
    if (threadIdx.x == 0) y[blockIdx.x] = static_cast<float>(scale * sum);
}

template <int V>
__device__ inline void slices(const float *x, double *partial, unsigned row, unsigned slice) {
    const unsigned first = blockIdx.y * slice, last = min(first + slice, row);
    const double sum = range_sum<V>(x, blockIdx.x * row + first, blockIdx.x * row + last);
    if (threadIdx.x == 0) partial[blockIdx.x * gridDim.y + blockIdx.y] = sum;
}

template <int V>
__device__ inline void spread(const float *y, float *x, unsigned n, unsigned row, float scale) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * V >= n) return;
    Pack<V> pack;
#pragma unroll
    for (int j = 0; j < V; ++j) pack.v[j] = scale * y[i * V / row];
    store<V>(x, i, pack);
}

#define REDUCE(name, V)                                                                                                 \
    extern "C" __global__ void reduce_f32##name(const float *x, float *y, unsigned row, float scale) {                  \
        reduce<V>(x, y, row, scale);                                                                                    \
    }                                                                                                                   \
    extern "C" __global__ void reduce_f32_slices##name(const float *x, double *partial, unsigned row, unsigned slice) { \
        slices<V>(x, partial, row, slice);                                                                              \
    }                                                                                                                   \
    extern "C" __global__ void reduce_dgrad_f32##name(const float *y, float *x, unsigned n, unsigned row, float scale) { \
        spread<V>(y, x, n, row, scale);                                                                                 \
    }

REDUCE(, 1)
REDUCE(_x4, 4)

extern "C" __global__ void reduce_f32_finish(const double *partial, float *y, unsigned n, unsigned slices, float scale) {
    const unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (i >= n) return;
    double sum = 0.0;
    for (unsigned slice = threadIdx.x % 32; slice < slices; slice += 32) sum += partial[i * slices + slice];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[i] = static_cast<float>(scale * sum);
}
