// The gate of squeeze-and-excite and its gradient for one image, by one block, from sums over slices of its pixels: every launch that needs
// the gate can make it anew. Numbers stand in squeeze_excite.cu.
#pragma once

#include "functions.cuh"
#include "reduce.cuh"

// By value; `Gate` in src/ops/squeeze_excite/cuda.rs.
struct Gate {
    unsigned n, c, hidden, slices;
    float pixels;
};

// partial [slices, n, c], weights w0 [c, hidden], w2 [hidden, c] and biases; s [n, hidden] and g [n, c] where they are read.
struct SqueezeExcite {
    const float *partial, *w0, *b0, *w2, *b2, *s, *g;
};

// The sum of the slices of partial[slice, n, c].
__device__ inline float total(const float *partial, unsigned n, unsigned c, const Gate &g) {
    float sum = 0.0f;
    for (unsigned slice = 0; slice < g.slices; ++slice) sum += partial[(slice * g.n + n) * g.c + c];
    return sum;
}

// means[k] = p[n, k], inner[j] = s[n, j] in shared memory, and each(k, g[n, k]). All threads of a block of whole warps call; `room` is
// blockDim.x numbers.
template <class Each>
__device__ inline void gate_fprop(const SqueezeExcite &of, unsigned n, const Gate &gate, float *means, float *inner, float *room, Each each) {
    const unsigned c = gate.c, hidden = gate.hidden;
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) means[k] = total(of.partial, n, k, gate) / gate.pixels;
    __syncthreads();
    // Neighbouring threads take neighbouring units, groups of threads every so many channels.
    for (unsigned first = 0; first < hidden; first += blockDim.x) {
        const unsigned units = min(hidden - first, blockDim.x), groups = blockDim.x / units;
        const unsigned j = threadIdx.x % units, group = threadIdx.x / units;
        float sum = 0.0f;
        if (group < groups)
            for (unsigned k = group; k < c; k += groups) sum += means[k] * of.w0[k * hidden + first + j];
        room[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < units) {
            for (unsigned i = 1; i < groups; ++i) sum += room[i * units + j];
            inner[first + j] = fmaxf(sum + of.b0[first + j], 0.0f);
        }
        __syncthreads();
    }
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        float sum = 0.0f;
        for (unsigned j = 0; j < hidden; ++j) sum += inner[j] * of.w2[j * c + k];
        each(k, sigmoid(sum + of.b2[k]));
    }
}

// slopes[k] = dg[n, k], inner[j] = ds[n, j] in shared memory, and each(k, mean[n, k]). All threads of a block of whole warps call.
template <class Each>
__device__ inline void gate_dgrad(const SqueezeExcite &of, unsigned n, float alpha, const Gate &gate, float *slopes, float *inner, Each each) {
    const unsigned lane = threadIdx.x % 32, c = gate.c, hidden = gate.hidden;
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        const float open = of.g[n * c + k];
        slopes[k] = alpha * total(of.partial, n, k, gate) * open * (1.0f - open);
    }
    __syncthreads();
    // A warp for each hidden unit.
    for (unsigned j = threadIdx.x / 32; j < hidden; j += blockDim.x / 32) {
        float sum = 0.0f;
        for (unsigned k = lane; k < c; k += 32) sum += slopes[k] * of.w2[j * c + k];
        sum = warp_sum(sum);
        if (lane == 0) inner[j] = of.s[n * hidden + j] > 0.0f ? sum : 0.0f;
    }
    __syncthreads();
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        const float *row = of.w0 + k * hidden;
        float sum = 0.0f;
        unsigned j = 0;
        // A lane has a row to itself: fours, where rows begin on 16 bytes, touch their sectors fewer times.
        if (hidden % 4 == 0)
            for (; j < hidden; j += 4) {
                const float4 four = *reinterpret_cast<const float4 *>(row + j);
                sum += inner[j] * four.x + inner[j + 1] * four.y + inner[j + 2] * four.z + inner[j + 3] * four.w;
            }
        for (; j < hidden; ++j) sum += inner[j] * row[j];
        each(k, sum / gate.pixels);
    }
}
