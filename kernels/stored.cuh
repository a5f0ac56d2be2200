// Eight neighbouring numbers of a tensor that a launch stores in f32 or in bf16, as two accesses of 16 bytes or as one. The storage is the
// same for all threads, so the branch costs an instruction and no divergence; sums and functions are f32 in registers either way.
//
// Kernels whose name ends in _h take such tensors: `narrow` has a bit for each, in the order of the arguments, set for bf16.
#pragma once

#include "bf16.cuh"
#include "vector.cuh"

// A tensor to read.
struct Source {
    const void *data;
    bool narrow;

    __device__ Source(const void *data, bool narrow) : data(data), narrow(narrow) {}
    __device__ float operator[](unsigned i) const {
        return narrow ? low_bf16(static_cast<const bf16 *>(data)[i]) : static_cast<const float *>(data)[i];
    }
};

// A tensor to write.
struct Target {
    void *data;
    bool narrow;

    __device__ Target(void *data, bool narrow) : data(data), narrow(narrow) {}
};

// x[i V .. i V + V]
template <int V>
__device__ inline Pack<V> load(const Source &x, unsigned i) {
    static_assert(V == 8, "eight numbers of bf16 are 16 bytes");
    Pack<V> pack;
    if (x.narrow) {
        const uint4 four = static_cast<const uint4 *>(x.data)[i];
        const unsigned pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) pack.v[2 * k] = low_bf16(pairs[k]), pack.v[2 * k + 1] = high_bf16(pairs[k]);
    } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Pack<4> four = load<4>(static_cast<const float *>(x.data), 2 * i + half);
#pragma unroll
            for (int k = 0; k < 4; ++k) pack.v[4 * half + k] = four.v[k];
        }
    }
    return pack;
}

// x[i V .. i V + V] = pack
template <int V>
__device__ inline void store(const Target &x, unsigned i, const Pack<V> &pack) {
    static_assert(V == 8, "eight numbers of bf16 are 16 bytes");
    const float *v = pack.v;
    if (x.narrow) {
        static_cast<uint4 *>(x.data)[i] =
            make_uint4(round_bf16(v[0], v[1]), round_bf16(v[2], v[3]), round_bf16(v[4], v[5]), round_bf16(v[6], v[7]));
    } else {
        float4 *to = static_cast<float4 *>(x.data) + 2 * i;
        to[0] = make_float4(v[0], v[1], v[2], v[3]);
        to[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
}
