// Copies between row-major tensors of which one axis differs. With `outer` the elements before that axis and rows of what follows:
//
//   concat_f32[_x4](parts, y, row, outer)           y[o, offset_k + j] = x_k[o, j]; parts: table of Part, blockIdx.y = k
//   concat_f32_h(parts, y, row, outer, narrow)      parts: table of Stored; see stored.cuh, units of eight
//   slice_f32[_x4](x, y, n, width, row, start)      y[o, j] = x[o, start + j]; n elements of y
//   slice_dgrad_f32[_x4](dy, dx, n, width, row, start)    dx[o, start + j] = dy[o, j], zero elsewhere; n elements of dx
//   reshape_f32(x, y, n)                            the same numbers
//
// `width` and `row` are the elements of a row of the small and of the whole tensor. All counts are in units of the vector: _x4 needs
// every width and start to be a multiple of four. It also copies bf16, which it takes for half as many f32: nothing is computed.
//
// Limit: bytes, 8 an element. Geometry: a thread a unit, 256 a block.

#include "copy.cuh"
#include "stored.cuh"

struct Part {
    const float *x;
    unsigned long long width;
    unsigned long long offset;
};

template <int V>
__device__ inline void concat(const Part *parts, float *y, unsigned row, unsigned outer) {
    const unsigned width = parts[blockIdx.y].width;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * width) return;
    const unsigned offset = parts[blockIdx.y].offset;
    store<V>(y, i / width * row + offset + i % width, load<V>(parts[blockIdx.y].x, i));
}

template <int V>
__device__ inline void slice(const float *__restrict__ x, float *__restrict__ y, unsigned n, unsigned width, unsigned row,
                             unsigned start) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store<V>(y, i, load<V>(x, i / width * row + start + i % width));
}

template <int V>
__device__ inline void place(const float *__restrict__ dy, float *__restrict__ dx, unsigned n, unsigned width, unsigned row,
                             unsigned start) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    // Below start this wraps around to a large number, which is not inside either.
    const unsigned column = i % row - start;
    Pack<V> pack = {};
    if (column < width) pack = load<V>(dy, i / row * width + column);
    store<V>(dx, i, pack);
}

#define LAYOUT(name, V)                                                                                              \
    extern "C" __global__ void concat_f32##name(const Part *parts, float *y, unsigned row, unsigned outer) {         \
        concat<V>(parts, y, row, outer);                                                                             \
    }                                                                                                                \
    extern "C" __global__ void slice_f32##name(const float *x, float *y, unsigned n, unsigned width, unsigned row,   \
                                               unsigned start) {                                                     \
        slice<V>(x, y, n, width, row, start);                                                                        \
    }                                                                                                                \
    extern "C" __global__ void slice_dgrad_f32##name(const float *dy, float *dx, unsigned n, unsigned width,         \
                                                     unsigned row, unsigned start) {                                 \
        place<V>(dy, dx, n, width, row, start);                                                                      \
    }

LAYOUT(, 1)
LAYOUT(_x4, 4)

extern "C" __global__ void reshape_f32(const float *x, float *y, unsigned n) { copy(x, y, n); }

struct Stored {
    const void *x;
    unsigned long long width;
    unsigned long long offset;
    unsigned long long narrow;
};

extern "C" __global__ void concat_f32_h(const Stored *parts, void *y, unsigned row, unsigned outer, unsigned narrow) {
    const Stored part = parts[blockIdx.y];
    const unsigned width = part.width, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * width) return;
    const unsigned offset = part.offset;
    store<8>(Target(y, narrow & 1), i / width * row + offset + i % width, load<8>(Source(part.x, part.narrow), i));
}
