// y[i] = f(x[i]) and dx[i] = dy[i] f'(x[i]), any shape.
//
//   unary_f32_<f>(x, y, n)             unary_dgrad_f32_<f>(dy, x, dx, n)
//   unary_f32_affine(x, y, n, scale, shift)        unary_dgrad_f32_affine(dy, dx, n, scale)
//
// Limit: bytes, 8 per element forward and 12 backward. Geometry: a thread per element, 256 a block.

#include "functions.cuh"

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
