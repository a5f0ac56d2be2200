// Numbers of f32 that a thread moves together, and what it does with them on the way to shared memory.
#pragma once

#include "bf16.cuh"

// V numbers that move together.
template <int V>
struct __align__(4 * V) Pack {
    float v[V];
};

template <int V>
__device__ inline Pack<V> load_pack(const float *from) {
    return *reinterpret_cast<const Pack<V> *>(from);
}

template <int V>
__device__ inline void store_pack(float *to, const Pack<V> &pack) {
    *reinterpret_cast<Pack<V> *>(to) = pack;
}

template <int V>
__device__ inline void add(Pack<V> &sum, const Pack<V> &x) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum.v[v] += x.v[v];
}

template <int V>
__device__ inline void store_rounded(bf16 *to, const Pack<V> &x) {
    if constexpr (V == 4) {
        const uint2 words = {round_bf16(x.v[0], x.v[1]), round_bf16(x.v[2], x.v[3])};
        *reinterpret_cast<uint2 *>(to) = words;
    } else {
        *to = static_cast<bf16>(round_bf16(x.v[0], 0.0f));
    }
}

// f(x) of a thread's numbers, one function at a time: the switch stands outside the unrolled loop.
template <class F, int PASSES, int V>
__device__ inline void apply(Pack<V> (&x)[PASSES]) {
#pragma unroll
    for (int e = 0; e < PASSES * V; ++e) x[e / V].v[e % V] = F::value(x[e / V].v[e % V]);
}
