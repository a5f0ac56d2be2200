// Tiles of 32x32 of matrices [gridDim.z][rows][columns] on their way through shared memory to other layouts: 32x8 threads a block.
#pragma once

struct PackTile {
    float at[32][33]; // the padding puts a column into 32 banks

    static __device__ unsigned row() { return blockIdx.y * 32; }
    static __device__ unsigned column() { return blockIdx.x * 32; }

    // Zeros outside the matrix.
    __device__ void load(const float *w, unsigned rows, unsigned columns) {
        const unsigned x = threadIdx.x % 32, y = threadIdx.x / 32;
        w += static_cast<size_t>(blockIdx.z) * rows * columns;
        for (unsigned r = y; r < 32; r += 8) {
            const bool inside = row() + r < rows && column() + x < columns;
            at[r][x] = inside ? w[(row() + r) * columns + column() + x] : 0.0f;
        }
    }

    // wt[matrix][columns][rows]
    __device__ void store_transposed(float *wt, unsigned rows, unsigned columns) const {
        const unsigned x = threadIdx.x % 32, y = threadIdx.x / 32;
        wt += static_cast<size_t>(blockIdx.z) * rows * columns;
        for (unsigned r = y; r < 32; r += 8)
            if (column() + r < columns && row() + x < rows) wt[(column() + r) * rows + row() + x] = at[x][r];
    }
};

// Zeros to[begin .. end), by the blocks of the last matrix.
__device__ inline void fill_tail(float *to, unsigned begin, unsigned end) {
    if (blockIdx.z != gridDim.z - 1) return;
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x, threads = gridDim.x * gridDim.y * blockDim.x;
    for (unsigned at = begin + block * blockDim.x + threadIdx.x; at < end; at += threads) to[at] = 0.0f;
}
