// c[m, n] = sum_k a[m, k] b[k, n]; a and b bf16, c and the accumulation f32; row-major.
//
// m is any size; n and k are multiples of 8, so that every row starts on 16 bytes.
// Limit: tensor-core arithmetic, 2 m n k FLOPs. A block of 4 warps makes a 64x64 tile, a warp 32x32 of it; tiles of
// depth 32 come through a 3-stage cp.async pipeline, zero-filled at the edges. Grid: (ceil(n/64), ceil(m/64)).

#include "tiles.cuh"

#define TILE 64
#define DEPTH 32
#define STAGES 3
// 8 elements of padding: 16-byte alignment kept, and 8 rows of a matrix fall into different banks.
#define STRIDE_A (DEPTH + 8)
#define STRIDE_B (TILE + 8)

struct Stage {
    bf16 a[TILE * STRIDE_A];
    bf16 b[DEPTH * STRIDE_B];
};

__device__ inline void fetch(Stage &stage, const bf16 *a, const bf16 *b, int row0, int column0, int k0, int m, int n, int k) {
    for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
        const int row = i / (DEPTH / 8), depth = i % (DEPTH / 8) * 8;
        const bool inside = row0 + row < m && k0 + depth < k;
        copy_async_16(&stage.a[row * STRIDE_A + depth], inside ? &a[(row0 + row) * k + k0 + depth] : a, inside ? 16 : 0);
    }
    for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
        const int depth = i / (TILE / 8), column = i % (TILE / 8) * 8;
        const bool inside = k0 + depth < k && column0 + column < n;
        copy_async_16(&stage.b[depth * STRIDE_B + column], inside ? &b[(k0 + depth) * n + column0 + column] : b, inside ? 16 : 0);
    }
}

extern "C" __global__ void __launch_bounds__(128) gemm_bf16(const bf16 *a, const bf16 *b, float *c, int m, int n, int k) {
    __shared__ __align__(16) Stage stages[STAGES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
    float sum[2][4][4] = {};
    const int steps = (k + DEPTH - 1) / DEPTH;
    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) fetch(stages[s], a, b, row0, column0, s * DEPTH, m, n, k);
        copy_async_commit(); // an empty group keeps the count of groups independent of k
    }
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<STAGES - 2>();
        // One barrier does both: this step's copies of all threads are there, and every warp has left the stage that
        // is refilled below.
        __syncthreads();
        const int next = step + STAGES - 1;
        if (next < steps) fetch(stages[next % STAGES], a, b, row0, column0, next * DEPTH, m, n, k);
        copy_async_commit();
        const Stage &stage = stages[step % STAGES];
#pragma unroll
        for (int depth = 0; depth < DEPTH; depth += 16) {
            unsigned x[2][4], y[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                load_matrix_x4(x[i], &stage.a[(warp_row + 16 * i + lane % 16) * STRIDE_A + depth + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 2; ++j)
                load_matrix_x4_transposed(y[j], &stage.b[(depth + lane % 16) * STRIDE_B + warp_column + 16 * j + lane / 16 * 8]);
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_bf16(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = row0 + warp_row + 16 * i + accumulator_row(lane, e);
                const int column = column0 + warp_column + 8 * j + accumulator_column(lane, e);
                if (row < m && column < n) c[row * n + column] = sum[i][j][e];
            }
}
