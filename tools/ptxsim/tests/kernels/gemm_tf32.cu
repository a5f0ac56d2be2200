// c[m, n] = sum_k a[m, k] b[k, n], f32 in memory, tf32 in the tensor cores, f32 accumulation; row-major, any sizes.
//
// Limit: tensor-core arithmetic, 2 m n k FLOPs. A block of 4 warps makes a 64x64 tile, a warp 32x32 of it; tiles of
// depth 16 come through a double-buffered cp.async pipeline of 4-byte copies, so odd row lengths need no padding.
// Dynamic shared memory: 2 * (64 * 20 + 16 * 72) * 4 = 19456 bytes. Grid: (ceil(n/64), ceil(m/64)).

#include "tiles.cuh"

#define TILE 64
#define DEPTH 16
#define STRIDE_A (DEPTH + 4)
#define STRIDE_B (TILE + 8)
#define STAGE (TILE * STRIDE_A + DEPTH * STRIDE_B)

__device__ inline void fetch(float *stage, const float *a, const float *b, int row0, int column0, int k0, int m, int n, int k) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += 128) {
        const int row = i / DEPTH, depth = i % DEPTH;
        const bool inside = row0 + row < m && k0 + depth < k;
        copy_async_4(&stage[row * STRIDE_A + depth], inside ? &a[(row0 + row) * k + k0 + depth] : a, inside ? 4 : 0);
    }
    for (int i = threadIdx.x; i < TILE * DEPTH; i += 128) {
        const int depth = i / TILE, column = i % TILE;
        const bool inside = k0 + depth < k && column0 + column < n;
        copy_async_4(&stage[TILE * STRIDE_A + depth * STRIDE_B + column], inside ? &b[(k0 + depth) * n + column0 + column] : b,
                     inside ? 4 : 0);
    }
}

extern "C" __global__ void __launch_bounds__(128) gemm_tf32(const float *a, const float *b, float *c, int m, int n, int k) {
    extern __shared__ __align__(16) float stages[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
    float sum[2][4][4] = {};
    const int steps = (k + DEPTH - 1) / DEPTH;
    fetch(stages, a, b, row0, column0, 0, m, n, k);
    copy_async_commit();
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) fetch(stages + (step + 1) % 2 * STAGE, a, b, row0, column0, (step + 1) * DEPTH, m, n, k);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        const float *tile_a = stages + step % 2 * STAGE, *tile_b = tile_a + TILE * STRIDE_A;
#pragma unroll
        for (int depth = 0; depth < DEPTH; depth += 8) {
            unsigned x[2][4], y[4][2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                // A row of 8 16-bit elements is 4 floats: the lanes get x[row, lane % 4] of each 8x4 quarter.
                load_matrix_x4(x[i], &tile_a[(warp_row + 16 * i + lane % 16) * STRIDE_A + depth + lane / 16 * 4]);
#pragma unroll
                for (int e = 0; e < 4; ++e) x[i][e] = round_tf32(__uint_as_float(x[i][e]));
            }
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    y[j][e] = round_tf32(tile_b[(depth + lane % 4 + 4 * e) * STRIDE_B + warp_column + 8 * j + lane / 4]);
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) mma_tf32(sum[i][j], x[i], y[j][0], y[j][1]);
        }
        __syncthreads(); // before the next step refills this buffer
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
