// How threads lie on x[group, row, column], columns innermost, when they work along the rows: an element-wise map with numbers per column,
// or sums over rows. Neighbouring threads take neighbouring columns and each keeps one, so what belongs to a column stays in registers.
//
// A column here is V neighbouring numbers (vector.cuh). A block is `width` columns wide; where that is all of them, its threads
// read one contiguous piece, whatever the number of columns. blockIdx.x = group * tiles + tile, blockIdx.y = slice of rows.
// src/ops/reduce/columns.rs chooses the extents.
#pragma once

#include "reduce.cuh"
#include "vector.cuh"

struct Columns {
    // The extents of x.
    unsigned rows, columns;
    // Columns of a block, and blocks that cover all of them.
    unsigned width, tiles;
    // Rows of a block.
    unsigned slice;
};

// Where a thread stands, and its rows: first, first + step, ... below last; none beyond the last column.
struct Walk {
    unsigned group, column, first, last, step;
    // x[group, row, column] is at base + row * columns, in units of V.
    unsigned base, columns;

    __device__ explicit Walk(const Columns &c) {
        group = blockIdx.x / c.tiles;
        column = blockIdx.x % c.tiles * c.width + threadIdx.x % c.width;
        step = blockDim.x / c.width;
        first = blockIdx.y * c.slice + threadIdx.x / c.width;
        last = min(blockIdx.y * c.slice + c.slice, c.rows);
        if (column >= c.columns) last = 0;
        columns = c.columns;
        base = group * c.rows * columns + column;
    }

    __device__ bool inside() const { return column < columns; }
    // A column whose numbers can be read by any thread.
    __device__ unsigned readable() const { return inside() ? column : 0; }
    __device__ unsigned at(unsigned row) const { return base + row * columns; }
    // Whether this thread holds what join_rows has put together.
    __device__ bool leads(const Columns &c) const { return threadIdx.x < c.width && inside(); }
    // partial[slice, group, column], in units of V.
    __device__ unsigned partial(const Columns &c) const {
        return blockIdx.y * (gridDim.x / c.tiles) * columns + group * columns + column;
    }
};

// V of the sums, from the first-th on.
template <int V, int N>
__device__ inline Pack<V> pack_of(const Sums<N> &sums, int first) {
    Pack<V> pack;
#pragma unroll
    for (int j = 0; j < V; ++j) pack.v[j] = sums.v[first + j];
    return pack;
}

// The sums over a thread's rows of what `add(at, sums)` adds. Each BATCH of rows is summed by itself before it joins the rest, which
// keeps the rounding of long columns down, and its loads are under way together.
template <int N, int BATCH, class Add>
__device__ inline Sums<N> sum_rows(const Walk &walk, Add add) {
    Sums<N> total = {};
    unsigned row = walk.first;
    for (; row + (BATCH - 1) * walk.step < walk.last; row += BATCH * walk.step) {
        Sums<N> batch = {};
#pragma unroll
        for (int i = 0; i < BATCH; ++i) add(walk.at(row + i * walk.step), batch);
        total.join(batch);
    }
    Sums<N> batch = {};
    for (; row < walk.last; row += walk.step) add(walk.at(row), batch);
    total.join(batch);
    return total;
}

// The sums over the rows of a block's slice of x, in the threads that lead. All threads call.
template <int V>
__device__ inline Pack<V> column_sum(const float *__restrict__ x, const Walk &walk, const Columns &c) {
    __shared__ Sums<V> room[COLUMN_THREADS / 2];
    Sums<V> own = sum_rows<V, 8>(walk, [&](unsigned at, Sums<V> &sums) {
        const Pack<V> pack = load<V>(x, at);
#pragma unroll
        for (int j = 0; j < V; ++j) sums.v[j] += pack.v[j];
    });
    join_rows(own, c.width, room);
    return pack_of<V>(own, 0);
}

// y[slice, group, column] = sum over the rows of a slice of x.
template <int V>
__device__ inline void column_sums(const float *x, float *y, const Columns &c) {
    const Walk walk(c);
    const Pack<V> sum = column_sum<V>(x, walk, c);
    if (walk.leads(c)) store<V>(y, walk.partial(c), sum);
}
