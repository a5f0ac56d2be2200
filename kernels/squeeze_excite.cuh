// The gate of squeeze-and-excite and its gradient for one image, by one block, from sums over slices of its pixels: every launch that needs
// the gate can make it anew. Numbers stand in squeeze_excite.cu.
#pragma once

#include "functions.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// By value; `Gate` in src/ops/squeeze_excite/cuda.rs.
struct Gate {
    unsigned n, c, hidden, slices;
    float pixels;
};

// partial [slices, n, c], weights w0 [c, hidden], w2 [hidden, c] and biases; s [n, hidden] and g [n, c] where they are read.
struct SqueezeExcite {
    const float *partial, *w0, *b0, *w2, *b2, *s, *g;
};

// The sums of the slices of partial[slice, n, c], V channels from the i-th V of them on.
template <int V>
__device__ inline Pack<V> total(const float *partial, unsigned n, unsigned i, const Gate &g) {
    Pack<V> sum = {};
    for (unsigned slice = 0; slice < g.slices; ++slice) {
        const Pack<V> one = load<V>(partial, ((slice * g.n + n) * g.c) / V + i);
#pragma unroll
        for (int j = 0; j < V; ++j) sum.v[j] += one.v[j];
    }
    return sum;
}

// each(i, sums over k of x[k] w[k, i V ...]) for the columns of w [rows, columns], V at a time; x in shared memory. All threads of the block
// call: neighbours take neighbouring columns, groups of threads every so many rows.
template <int V, class Each>
__device__ inline void times_matrix(const float *x, unsigned rows, const float *w, unsigned columns, Sums<V> *room, Each each) {
    const unsigned width = columns / V;
    for (unsigned first = 0; first < width; first += blockDim.x) {
        const unsigned units = min(width - first, blockDim.x), groups = blockDim.x / units;
        const unsigned unit = threadIdx.x % units, group = threadIdx.x / units;
        Sums<V> sum = {};
        if (group < groups) {
#pragma unroll 4
            for (unsigned k = group; k < rows; k += groups) {
                const Pack<V> weights = load<V>(w, k * width + first + unit);
#pragma unroll
                for (int j = 0; j < V; ++j) sum.v[j] += x[k] * weights.v[j];
            }
        }
        join_rows(sum, units, room);
        if (threadIdx.x < units) each(first + unit, sum);
    }
}

// As gate_fprop, for numbers of channels and of hidden units that V divides.
template <int V>
__device__ inline void gate_fprop_of(const SqueezeExcite &of, unsigned n, const Gate &gate, float *means, float *inner, float *open,
                                     Sums<V> *room) {
    const unsigned c = gate.c, hidden = gate.hidden;
    for (unsigned i = threadIdx.x; i < c / V; i += blockDim.x) {
        Pack<V> mean = total<V>(of.partial, n, i, gate);
#pragma unroll
        for (int j = 0; j < V; ++j) mean.v[j] /= gate.pixels;
        store<V>(means, i, mean);
    }
    __syncthreads();
    times_matrix<V>(means, c, of.w0, hidden, room, [&](unsigned i, const Sums<V> &sum) {
        const Pack<V> bias = load<V>(of.b0, i);
#pragma unroll
        for (int j = 0; j < V; ++j) inner[i * V + j] = fmaxf(sum.v[j] + bias.v[j], 0.0f);
    });
    __syncthreads();
    times_matrix<V>(inner, hidden, of.w2, c, room, [&](unsigned i, const Sums<V> &sum) {
        Pack<V> gates = load<V>(of.b2, i);
#pragma unroll
        for (int j = 0; j < V; ++j) gates.v[j] = sigmoid(sum.v[j] + gates.v[j]);
        store<V>(open, i, gates);
    });
}

// means[k] = p[n, k] and inner[j] = s[n, j] in shared memory, and open[k] = g[n, k] anywhere. All threads of a block call; where 4 divides
// the channels, means and open begin at multiples of 16 bytes.
__device__ inline void gate_fprop(const SqueezeExcite &of, unsigned n, const Gate &gate, float *means, float *inner, float *open) {
    __shared__ Sums<4> room[COLUMN_THREADS / 2];
    if (gate.c % 4 == 0 && gate.hidden % 4 == 0)
        gate_fprop_of<4>(of, n, gate, means, inner, open, room);
    else
        gate_fprop_of<1>(of, n, gate, means, inner, open, reinterpret_cast<Sums<1> *>(room));
}

// slopes[k] = dg[n, k], inner[j] = ds[n, j] in shared memory, and each(k, mean[n, k]). All threads of a block of whole warps call.
template <class Each>
__device__ inline void gate_dgrad(const SqueezeExcite &of, unsigned n, float alpha, const Gate &gate, float *slopes, float *inner, Each each) {
    const unsigned lane = threadIdx.x % 32, c = gate.c, hidden = gate.hidden;
    for (unsigned k = threadIdx.x; k < c; k += blockDim.x) {
        const float open = of.g[n * c + k];
        slopes[k] = alpha * total<1>(of.partial, n, k, gate).v[0] * open * (1.0f - open);
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
