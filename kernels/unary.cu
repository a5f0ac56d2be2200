// y[i] = f(x[i]) and dx[i] = dy[i] f'(x[i]), any shape.
//
//   unary_f32_<f>(x, y, n)             unary_dgrad_f32_<f>(dy, x, dx, n)
//   unary_f32_affine(x, y, n, scale, shift)        unary_dgrad_f32_affine(dy, dx, n, scale)
//
//   unary_f32_<f>_h(x, y, n, narrow)   unary_dgrad_f32_<f>_h(dy, x, dx, n, narrow)          see stored.cuh; n is a multiple of 8
//   unary_f32_affine_h(x, y, n, narrow, scale, shift)      unary_dgrad_f32_affine_h(dy, dx, n, narrow, scale)
//
// Limit: bytes, 8 per element forward and 12 backward, half of that in bf16. Geometry: a thread per element, or per eight; 256 a block.

#include "functions.cuh"
#include "stored.cuh"

template <class F>
__device__ inline void value(const float *x, float *y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = F::value(x[i]);
}

template <class F>
__device__ inline void slope(const float *dy, const float *x, float *dx, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = dy[i] * F::slope(x[i]);
}

#define UNARY(name, F)                                                                                        \
    extern "C" __global__ void unary_f32_##name(const float *x, float *y, unsigned n) { value<F>(x, y, n); }  \
    extern "C" __global__ void unary_dgrad_f32_##name(const float *dy, const float *x, float *dx, unsigned n) { \
        slope<F>(dy, x, dx, n);                                                                               \
    }

UNARY(swish, Swish)
UNARY(lip_swish, LipSwish)
UNARY(elu, Elu)
UNARY(relu, Relu)
UNARY(sigmoid, Sigmoid)
UNARY(softplus, Softplus)
UNARY(soft_clamp, SoftClamp)
UNARY(exp, Exp)
UNARY(ln, Ln)
UNARY(square, Square)

extern "C" __global__ void unary_f32_affine(const float *x, float *y, unsigned n, float scale, float shift) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = scale * x[i] + shift;
}

extern "C" __global__ void unary_dgrad_f32_affine(const float *dy, float *dx, unsigned n, float scale) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = dy[i] * scale;
}

// y = f(x), eight numbers a thread.
template <class F>
__device__ inline void map_eight(const Source &x, const Target &y, unsigned n, F f) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * 8 >= n) return;
    Pack<8> pack = load<8>(x, i);
#pragma unroll
    for (int k = 0; k < 8; ++k) pack.v[k] = f(pack.v[k]);
    store<8>(y, i, pack);
}

template <class F>
__device__ inline void slope_eight(const Source &dy, const Source &x, const Target &dx, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * 8 >= n) return;
    Pack<8> pack = load<8>(dy, i);
    const Pack<8> at = load<8>(x, i);
#pragma unroll
    for (int k = 0; k < 8; ++k) pack.v[k] *= F::slope(at.v[k]);
    store<8>(dx, i, pack);
}

#define UNARY_H(name, F)                                                                                                              \
    extern "C" __global__ void unary_f32_##name##_h(const void *x, void *y, unsigned n, unsigned narrow) {                            \
        map_eight(Source(x, narrow & 1), Target(y, narrow & 2), n, [](float v) { return F::value(v); });                              \
    }                                                                                                                                 \
    extern "C" __global__ void unary_dgrad_f32_##name##_h(const void *dy, const void *x, void *dx, unsigned n, unsigned narrow) {     \
        slope_eight<F>(Source(dy, narrow & 1), Source(x, narrow & 2), Target(dx, narrow & 4), n);                                     \
    }

// Those that networks have between layers.
UNARY_H(swish, Swish)
UNARY_H(lip_swish, LipSwish)
UNARY_H(elu, Elu)
UNARY_H(relu, Relu)

extern "C" __global__ void unary_f32_affine_h(const void *x, void *y, unsigned n, unsigned narrow, float scale, float shift) {
    map_eight(Source(x, narrow & 1), Target(y, narrow & 2), n, [=](float v) { return scale * v + shift; });
}

extern "C" __global__ void unary_dgrad_f32_affine_h(const void *dy, void *dx, unsigned n, unsigned narrow, float scale) {
    map_eight(Source(dy, narrow & 1), Target(dx, narrow & 2), n, [=](float v) { return scale * v; });
}
