// The extents of a convolution, and what fprop and dgrad do with a sum of products: the same for every way to make it.
#pragma once

#include "functions.cuh"
#include "pack.cuh"

// By value; `Conv` in src/ops/conv2d/cuda/extents.rs.
struct Conv {
    int n, h, w, cin;
    int oh, ow, cout;
    int kh, kw;
    int stride, dilation, pad_top, pad_left, groups;
};

// An end works on V neighbouring sums of pixel `to`, from a channel on. `read` gets what they need besides, so that a thread can ask for
// several before it waits for one; `finish` does the rest. Neither does anything where there is no such pixel or channel.

// y = post(sum + bias + residual). Where `after` is given, it gets y, and y what post is taken of.
struct FpropEnd {
    static constexpr int READS = 2;
    const float *bias, *residual;
    float *y, *after;
    int columns;
    unsigned post;

    __device__ bool fours() const { return columns % 4 == 0; }

    template <int V>
    __device__ void read(int to, int o, Pack<V> (&beside)[READS]) const {
        if (to < 0 || o >= columns) return;
        if (bias != nullptr) beside[0] = load_pack<V>(&bias[o]);
        if (residual != nullptr) beside[1] = load_pack<V>(&residual[to * columns + o]);
    }

    template <int V>
    __device__ void finish(int to, int o, Pack<V> value, const Pack<V> (&beside)[READS]) const {
        if (to < 0 || o >= columns) return;
        const int at = to * columns + o; // y[n, oy, ox, o]
        if (bias != nullptr) add(value, beside[0]);
        if (residual != nullptr) add(value, beside[1]);
        if (after != nullptr) store_pack<V>(&y[at], value);
#pragma unroll
        for (int v = 0; v < V; ++v) value.v[v] = activate(post, value.v[v]);
        store_pack<V>(after != nullptr ? &after[at] : &y[at], value);
    }
};

template <class F, int V>
__device__ inline void multiply_slope(Pack<V> &value, const Pack<V> &x) {
#pragma unroll
    for (int v = 0; v < V; ++v) value.v[v] *= F::slope(x.v[v]);
}

// dx = pre'(x) * (sum + residual) + start for the first `split` channels; the others go to dx2, to which neither of the summands nor the
// slope belongs. x may be dx: a thread reads an element before it writes it, and nobody else does.
struct DgradEnd {
    static constexpr int READS = 3;
    const float *x, *residual, *start;
    float *dx, *dx2;
    int columns, split;
    unsigned pre;

    __device__ bool fours() const { return (columns | split) % 4 == 0; }

    template <int V>
    __device__ void read(int to, int i, Pack<V> (&beside)[READS]) const {
        if (to < 0 || i >= columns || i >= split) return;
        const int at = to * split + i; // dx[n, iy, ix, i]
        if (residual != nullptr) beside[0] = load_pack<V>(&residual[at]);
        if (pre != 0) beside[1] = load_pack<V>(&x[at]);
        if (start != nullptr) beside[2] = load_pack<V>(&start[at]);
    }

    template <int V>
    __device__ void finish(int to, int i, Pack<V> value, const Pack<V> (&beside)[READS]) const {
        if (to < 0 || i >= columns) return;
        if (i >= split) {
            store_pack<V>(&dx2[to * (columns - split) + i - split], value);
            return;
        }
        if (residual != nullptr) add(value, beside[0]);
        switch (pre) {
            case 1: multiply_slope<Swish>(value, beside[1]); break;
            case 2: multiply_slope<LipSwish>(value, beside[1]); break;
            case 3: multiply_slope<Elu>(value, beside[1]); break;
        }
        if (start != nullptr) add(value, beside[2]);
        store_pack<V>(&dx[to * split + i], value);
    }
};
