// Balancing of the KL terms kl_g[n] of latent groups. With a coefficient below 1: a_g = (mean over n of |kl_g[n]| + 0.01) / alpha_g,
// weights[g] = a_g / (mean over g of a_g); from 1 on every weight is 1. balanced[n] = sum over g of weights[g] kl_g[n].
//
//   kl_balance_f32(groups, coefficient, balanced, weights, count, n)
//   kl_balance_dgrad_f32(dbalanced, weights, gradients, n)                dkl_g[n] = dbalanced[n] weights[g]
//
// Limit: one launch; the terms of a batch are a few kilobytes. Geometry: one block, since each weight needs all terms; backward a
// thread an element of each group, groups along y.

#include "reduce.cuh"

#define FLOOR 0.01f

// A row of the table: the terms of a group, and 1 / alpha as the bits of a float.
struct Group {
    const float *kl;
    unsigned long long inverse_size;
};

extern "C" __global__ void kl_balance_f32(const Group *groups, const float *coefficient, float *balanced, float *weights,
                                          unsigned count, unsigned n) {
    const unsigned lane = threadIdx.x % 32;
    if (*coefficient < 1.0f) {
        for (unsigned g = threadIdx.x / 32; g < count; g += blockDim.x / 32) {
            const float *kl = groups[g].kl;
            float sum = 0.0f;
            for (unsigned i = lane; i < n; i += 32) sum += fabsf(kl[i]);
            sum = warp_sum(sum);
            if (lane == 0) weights[g] = (sum / n + FLOOR) * __int_as_float(static_cast<int>(groups[g].inverse_size));
        }
        __syncthreads();
        float total = 0.0f;
        for (unsigned g = lane; g < count; g += 32) total += weights[g];
        const float scale = count / warp_sum(total);
        __syncthreads();
        for (unsigned g = threadIdx.x; g < count; g += blockDim.x) weights[g] *= scale;
    } else {
        for (unsigned g = threadIdx.x; g < count; g += blockDim.x) weights[g] = 1.0f;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        float sum = 0.0f;
        for (unsigned g = 0; g < count; ++g) sum += weights[g] * groups[g].kl[i];
        balanced[i] = sum;
    }
}

extern "C" __global__ void kl_balance_dgrad_f32(const float *dbalanced, const float *weights, float *const *gradients, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) gradients[blockIdx.y][i] = dbalanced[i] * weights[blockIdx.y];
}
