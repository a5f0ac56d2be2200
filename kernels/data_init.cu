// Data-dependent initialisation. Over all rows of y[row, c]: m the mean, s = 5 sqrt(sum (y - m)^2 / (rows - 1)) + 1e-5; then
// log_weight_norm[c] = -ln s and bias[c] = -m / s.
//
//   data_init_f32_sums[_x4](y, sums, columns)                sums[slice, c] of y
//   data_init_f32_squares[_x4](y, sums, squares, columns)    squares[slice, c] of y - m
//   data_init_f32(sums, squares, log_weight_norm, bias or null, slices, rows, channels)
//
// Two passes: squares are of differences from the mean. Limit: bytes, 8 an element of y. Geometry: columns.cuh; the last a warp a
// channel. It runs once in a training.

#include "slices.cuh"

#define SPREAD 5.0f
#define FLOOR 1e-5f

template <int V>
__device__ inline void squares(const float *y, const float *sums, float *partial, const Columns &c) {
    __shared__ Sums<V> room[COLUMN_THREADS / 2];
    __shared__ Sums<V> means[COLUMN_THREADS / 2];
    const Walk walk(c);
    Sums<V> total = load_slices<V, V>(sums, walk, c);
    join_rows(total, c.width, room);
    if (walk.leads(c)) {
#pragma unroll
        for (int j = 0; j < V; ++j) means[threadIdx.x].v[j] = total.v[j] / c.rows;
    }
    __syncthreads();
    Sums<V> mean = {};
    if (walk.inside()) mean = means[threadIdx.x % c.width];
    Sums<V> own = sum_rows<V, 8>(walk, [&](unsigned at, Sums<V> &squares) {
        const Pack<V> pack = load<V>(y, at);
#pragma unroll
        for (int j = 0; j < V; ++j) squares.v[j] += (pack.v[j] - mean.v[j]) * (pack.v[j] - mean.v[j]);
    });
    join_rows(own, c.width, room);
    if (walk.leads(c)) store_slice<V, V>(partial, walk, c, own);
}

#define DATA_INIT(name, V)                                                                                                   \
    extern "C" __global__ void data_init_f32_sums##name(const float *y, float *sums, Columns c) { column_sums<V>(y, sums, c); } \
    extern "C" __global__ void data_init_f32_squares##name(const float *y, const float *sums, float *partial, Columns c) {   \
        squares<V>(y, sums, partial, c);                                                                                     \
    }

DATA_INIT(, 1)
DATA_INIT(_x4, 4)

extern "C" __global__ void data_init_f32(const float *sums, const float *squares, float *log_weight_norm, float *bias, unsigned slices,
                                         unsigned rows, unsigned channels) {
    const unsigned c = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (c >= channels) return;
    float sum = 0.0f, square = 0.0f;
    for (unsigned slice = threadIdx.x % 32; slice < slices; slice += 32) {
        sum += sums[slice * channels + c];
        square += squares[slice * channels + c];
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (threadIdx.x % 32 != 0) return;
    const float scale = SPREAD * sqrtf(square / (rows - 1)) + FLOOR;
    log_weight_norm[c] = -logf(scale);
    if (bias) bias[c] = -(sum / rows) / scale;
}
