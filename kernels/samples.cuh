// Sums over each sample of a batch, y[n] = sum over e of term[n, e]. src/ops/latent/samples.rs chooses the extents.
//
// A long sample is cut into pieces, a block each, whose sums `totals` adds up; a short one is a warp's. Terms are f32 and their sums
// f64: these are log-densities of thousands of elements, of which small differences matter.
#pragma once

#include "reduce.cuh"

struct Samples {
    // Samples, and elements of one.
    unsigned count, length;
    // Elements of a piece, and pieces of a sample.
    unsigned piece, pieces;
};

// blockIdx.x = n * pieces + piece. `term(n, i)` is that of element i of the whole batch; the sum goes to y[n] if a sample is one
// piece, else to partial[n, piece].
template <class Term>
__device__ inline void sum_samples(const Samples &s, float *y, double *partial, Term term) {
    __shared__ double room[32];
    const unsigned n = blockIdx.x / s.pieces;
    const unsigned first = blockIdx.x % s.pieces * s.piece, last = min(first + s.piece, s.length);
    double sum = 0.0;
    for (unsigned e = first + threadIdx.x; e < last; e += blockDim.x) sum += term(n, n * s.length + e);
    sum = block_sum(sum, room);
    if (threadIdx.x != 0) return;
    if (s.pieces == 1)
        y[n] = static_cast<float>(sum);
    else
        partial[blockIdx.x] = sum;
}

// As sum_samples with a warp for each sample.
template <class Term>
__device__ inline void sum_samples_by_warps(const Samples &s, float *y, Term term) {
    const unsigned n = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (n >= s.count) return;
    double sum = 0.0;
    for (unsigned e = threadIdx.x % 32; e < s.length; e += 32) sum += term(n, n * s.length + e);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[n] = static_cast<float>(sum);
}

// y[n] = sum over pieces of partial[n, piece]; a warp a sample.
__device__ inline void totals(const double *__restrict__ partial, float *y, const Samples &s) {
    const unsigned n = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (n >= s.count) return;
    double sum = 0.0;
    for (unsigned piece = threadIdx.x % 32; piece < s.pieces; piece += 32) sum += partial[n * s.pieces + piece];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[n] = static_cast<float>(sum);
}
