// V = 1 or 4 neighbouring numbers of a tensor as one access. Four need a row length that is a multiple of four: every tensor begins at a
// multiple of 64 bytes.
#pragma once

template <int V>
struct Pack {
    float v[V];
};

// x[i V .. i V + V]
template <int V>
__device__ inline Pack<V> load(const float *x, unsigned i) {
    Pack<V> pack;
    if (V == 4) {
        const float4 four = reinterpret_cast<const float4 *>(x)[i];
        pack.v[0] = four.x, pack.v[V / 4] = four.y, pack.v[V / 2] = four.z, pack.v[V - 1] = four.w;
    } else {
        pack.v[0] = x[i];
    }
    return pack;
}

// x[i V .. i V + V] = pack
template <int V>
__device__ inline void store(float *x, unsigned i, const Pack<V> &pack) {
    if (V == 4)
        reinterpret_cast<float4 *>(x)[i] = make_float4(pack.v[0], pack.v[V / 4], pack.v[V / 2], pack.v[V - 1]);
    else
        x[i] = pack.v[0];
}
