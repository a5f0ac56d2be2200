// c[i] = f(a[i], b[j(i)]), y[i] = x[j(i)] and their transpose, with j(i) the element of the small tensor that broadcasting puts beside
// element i of the big one; y[i] = x_0[i] + x_1[i] + ...
//
//   binary_f32_<f>[_x4](a, b, c, map, n)     f = mul, div; combine(.., alpha, beta): alpha a + beta b
//   binary_f32_<f>_h(a, b, c, map, n, narrow)     see stored.cuh; runs are a multiple of 8
//   broadcast_to_f32[_x4](x, y, map, n)
//   sum_to_f32_columns[_x4](x, y, columns)         the innermost axis stays: y[group, column] = sum over rows
//   sum_to_f32_rows(x, partial, rows)              it does not: y[..] = sum over three axes
//   sum_to_f32_finish(partial, y, n, slices)       the sum of the slices of a row
//   sum_of_f32(parts, count, y, n)                 parts: table of addresses
//   sum_of_f32_h(parts, count, y, n, narrow)       parts: table of addresses, each with a 1 behind it where it holds bf16; n a multiple of 8
//
// _x4 takes four neighbours a thread, for runs that are a multiple of four. n counts elements.
//
// Limit: bytes. 8 to 12 an element for f, 4 or 8 for a broadcast, 4 for a sum, 4 (count + 1) for sum_of; half of that in bf16.
// Geometry: a thread per element or four of them, 256 a block; sums over columns see columns.cuh, sums over rows a block a
// slice of a sum.

#include "columns.cuh"
#include "stored.cuh"

// Row-major axes of the big tensor, innermost first, neighbours merged where the small one allows; strides are those of the small tensor,
// 0 where it repeats. The innermost stride is 0 or 1.
struct Map {
    unsigned extents[4];
    unsigned strides[4];
};

// The element of the small tensor beside element i of the big one.
__device__ inline unsigned beside(const Map &map, unsigned i) {
    unsigned j = 0;
#pragma unroll
    for (int axis = 0; axis < 4; ++axis) {
        j += i % map.extents[axis] * map.strides[axis];
        i /= map.extents[axis];
        if (i == 0) break;
    }
    return j;
}

// The V elements of the small tensor beside element i V of the big one; they lie within one run.
template <int V, class B>
__device__ inline Pack<V> load_beside(B b, const Map &map, unsigned i) {
    const unsigned j = beside(map, i * V);
    if (map.strides[0] != 0) return load<V>(b, j / V);
    Pack<V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.v[k] = b[j];
    return pack;
}

template <int V, class A, class B, class C, class F>
__device__ inline void binary(A a, B b, C c, const Map &map, unsigned n, F f) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * V >= n) return;
    Pack<V> left = load<V>(a, i);
    const Pack<V> right = load_beside<V>(b, map, i);
#pragma unroll
    for (int k = 0; k < V; ++k) left.v[k] = f(left.v[k], right.v[k]);
    store<V>(c, i, left);
}

#define BINARY(name, V)                                                                                                \
    extern "C" __global__ void binary_f32_mul##name(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, Map map, unsigned n) {   \
        binary<V>(a, b, c, map, n, [](float a, float b) { return a * b; });                                            \
    }                                                                                                                  \
    extern "C" __global__ void binary_f32_div##name(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, Map map, unsigned n) {   \
        binary<V>(a, b, c, map, n, [](float a, float b) { return a / b; });                                            \
    }                                                                                                                  \
    extern "C" __global__ void binary_f32_combine##name(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, Map map, unsigned n, \
                                                        float alpha, float beta) {                                     \
        binary<V>(a, b, c, map, n, [=](float a, float b) { return alpha * a + beta * b; });                            \
    }                                                                                                                  \
    extern "C" __global__ void broadcast_to_f32##name(const float *x, float *y, Map map, unsigned n) {                 \
        const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                                                      \
        if (i * V < n) store<V>(y, i, load_beside<V>(x, map, i));                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS)                                                       \
        sum_to_f32_columns##name(const float *x, float *y, Columns columns) {                                          \
        column_sums<V>(x, y, columns);                                                                                 \
    }

BINARY(, 1)
BINARY(_x4, 4)

#define BINARY_H(name, f)                                                                                              \
    extern "C" __global__ void binary_f32_##name##_h(const void *a, const void *b, void *c, Map map, unsigned n,       \
                                                     unsigned narrow) {                                                \
        binary<8>(Source(a, narrow & 1), Source(b, narrow & 2), Target(c, narrow & 4), map, n, f);                     \
    }

BINARY_H(mul, [](float a, float b) { return a * b; })
BINARY_H(div, [](float a, float b) { return a / b; })

extern "C" __global__ void binary_f32_combine_h(const void *a, const void *b, void *c, Map map, unsigned n, unsigned narrow, float alpha,
                                                float beta) {
    binary<8>(Source(a, narrow & 1), Source(b, narrow & 2), Target(c, narrow & 4), map, n,
              [=](float a, float b) { return alpha * a + beta * b; });
}

// x[outer, kept, middle, last, inner]: sums over outer, middle and inner, numbered together by e; y[kept, last].
struct Rows {
    unsigned kept, middle, last, inner;
    // Numbers of one sum, and of one block's part of it.
    unsigned count, slice;
};

// partial[y, slice] = the sum of one slice of the numbers that make y[kept, last]; a block each, blockIdx = (y, slice).
extern "C" __global__ void __launch_bounds__(256) sum_to_f32_rows(const float *x, float *partial, Rows rows) {
    __shared__ double room[32];
    const unsigned kept = blockIdx.x / rows.last, last = blockIdx.x % rows.last;
    const unsigned end = min(blockIdx.y * rows.slice + rows.slice, rows.count);
    // Whole totals in f64: one addition per four bytes read costs nothing, and long sums lose nothing.
    double sum = 0.0;
#pragma unroll 4
    for (unsigned e = blockIdx.y * rows.slice + threadIdx.x; e < end; e += blockDim.x) {
        const unsigned inner = e % rows.inner, line = e / rows.inner;
        const unsigned middle = line % rows.middle, outer = line / rows.middle;
        sum += x[(((outer * rows.kept + kept) * rows.middle + middle) * rows.last + last) * rows.inner + inner];
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x * gridDim.y + blockIdx.y] = static_cast<float>(sum);
}

// y[i] = the sum of partial[i, ..]; a warp each.
extern "C" __global__ void sum_to_f32_finish(const float *partial, float *y, unsigned n, unsigned slices) {
    const unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (i >= n) return;
    double sum = 0.0;
    for (unsigned slice = threadIdx.x % 32; slice < slices; slice += 32) sum += partial[i * slices + slice];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[i] = static_cast<float>(sum);
}

extern "C" __global__ void sum_of_f32(const float *const *parts, unsigned count, float *y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = parts[0][i];
    for (unsigned part = 1; part < count; ++part) sum += parts[part][i];
    y[i] = sum;
}

// A part of a sum of tensors.
struct Part {
    const void *x;
    unsigned long long narrow;
};

extern "C" __global__ void sum_of_f32_h(const Part *parts, unsigned count, void *y, unsigned n, unsigned narrow) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * 8 >= n) return;
    Pack<8> sum = load<8>(Source(parts[0].x, parts[0].narrow), i);
    for (unsigned part = 1; part < count; ++part) {
        const Pack<8> next = load<8>(Source(parts[part].x, parts[part].narrow), i);
#pragma unroll
        for (int k = 0; k < 8; ++k) sum.v[k] += next.v[k];
    }
    store<8>(Target(y, narrow & 1), i, sum);
}
