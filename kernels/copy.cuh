// y[i] = x[i], n elements; a thread for each four, see src/ops/layout/cuda.rs for the launch.
#pragma once

#include "vector.cuh"

__device__ inline void copy(const float *__restrict__ x, float *__restrict__ y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n / 4) {
        store<4>(y, i, load<4>(x, i));
    } else if (i == n / 4) {
        for (unsigned rest = i * 4; rest < n; ++rest) y[rest] = x[rest];
    }
}
