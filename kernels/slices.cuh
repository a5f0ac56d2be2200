// Sums over all rows of x[row, column] in two launches of one geometry (columns.cuh, one group): the first leaves
// partial[slice, column], the second, whose blocks each need the whole sum of their columns, adds the slices up where it uses them.
#pragma once

#include "columns.cuh"

// N sums of each column, N a multiple of V, as partial[k][slice, column] for each V of them; the threads of row 0 hold them.
template <int N, int V>
__device__ inline void store_slice(float *partial, const Walk &walk, const Columns &c, const Sums<N> &own) {
#pragma unroll
    for (int k = 0; k < N / V; ++k)
        store<V>(partial, k * gridDim.y * c.columns + walk.partial(c), pack_of<V>(own, k * V));
}

// What the threads of a column hold of its sums over all slices: join_rows makes it whole.
template <int N, int V>
__device__ inline Sums<N> load_slices(const float *partial, const Walk &walk, const Columns &c) {
    Sums<N> own = {};
    if (!walk.inside()) return own;
    for (unsigned slice = threadIdx.x / c.width; slice < gridDim.y; slice += walk.step) {
#pragma unroll
        for (int k = 0; k < N / V; ++k) {
            const Pack<V> pack = load<V>(partial, (k * gridDim.y + slice) * c.columns + walk.column);
#pragma unroll
            for (int j = 0; j < V; ++j) own.v[k * V + j] += pack.v[j];
        }
    }
    return own;
}
