// Softmax and cross-entropy over the classes of x[n, k].
//
//   softmax_f32(x, p, n, k)                              p = exp(x - logsumexp(x))
//   softmax_dgrad_f32(dp, p, dx, n, k)                   dx = p (dp - sum over k of dp p)
//   cross_entropy_f32(x, target, loss, n, k)             loss[n] = sum over k of target (logsumexp(x) - x)
//   cross_entropy_dgrad_f32(dloss, x, target, dx, n, k)  dx = dloss[n] (softmax(x) sum over k of target - target)
//
// Limit: launches; a batch of ten scores each is a few kilobytes. Geometry: a warp a sample, eight a block.

#include "reduce.cuh"

// The sample of this warp, and the range of its scores.
struct Row {
    unsigned n, first, last;

    __device__ explicit Row(unsigned k) {
        n = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
        first = n * k + threadIdx.x % 32;
        last = n * k + k;
    }
};

// The sum over the row of term(i), in every lane.
template <class Term>
__device__ inline float row_sum(const Row &row, Term term) {
    float sum = 0.0f;
    for (unsigned i = row.first; i < row.last; i += 32) sum += term(i);
    return warp_sum(sum);
}

__device__ inline float log_sum_exp(const Row &row, const float *x) {
    // Minus infinity, where a lane has no score.
    float largest = __int_as_float(0xff800000);
    for (unsigned i = row.first; i < row.last; i += 32) largest = fmaxf(largest, x[i]);
    largest = warp_max(largest);
    return largest + logf(row_sum(row, [&](unsigned i) { return expf(x[i] - largest); }));
}

extern "C" __global__ void softmax_f32(const float *x, float *p, unsigned n, unsigned k) {
    const Row row(k);
    if (row.n >= n) return;
    const float total = log_sum_exp(row, x);
    for (unsigned i = row.first; i < row.last; i += 32) p[i] = expf(x[i] - total);
}

extern "C" __global__ void softmax_dgrad_f32(const float *dp, const float *p, float *dx, unsigned n, unsigned k) {
    const Row row(k);
    if (row.n >= n) return;
    const float mean = row_sum(row, [&](unsigned i) { return dp[i] * p[i]; });
    for (unsigned i = row.first; i < row.last; i += 32) dx[i] = p[i] * (dp[i] - mean);
}

extern "C" __global__ void cross_entropy_f32(const float *x, const float *target, float *loss, unsigned n, unsigned k) {
    const Row row(k);
    if (row.n >= n) return;
    const float total = log_sum_exp(row, x);
    const float sum = row_sum(row, [&](unsigned i) { return target[i] * (total - x[i]); });
    if (threadIdx.x % 32 == 0) loss[row.n] = sum;
}

extern "C" __global__ void cross_entropy_dgrad_f32(const float *dloss, const float *x, const float *target, float *dx, unsigned n,
                                                   unsigned k) {
    const Row row(k);
    if (row.n >= n) return;
    const float total = log_sum_exp(row, x), scale = dloss[row.n];
    const float mass = row_sum(row, [&](unsigned i) { return target[i]; });
    for (unsigned i = row.first; i < row.last; i += 32) dx[i] = scale * (expf(x[i] - total) * mass - target[i]);
}
