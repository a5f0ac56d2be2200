// c[m, n] = sum_k a[m, k] b[k, n], f32, row-major, any sizes.
//
// Limit: arithmetic, 2 m n k FLOPs. Each block of 16x16 threads makes a 64x64 tile of c from 64x16 and 16x64 tiles in
// shared memory; each thread makes 4x4 elements in registers. Grid: (ceil(n/64), ceil(m/64)).

#define TILE 64
#define DEPTH 16

extern "C" __global__ void __launch_bounds__(256) gemm_f32(const float *a, const float *b, float *c, int m, int n, int k) {
    __shared__ float tile_a[DEPTH][TILE + 1]; // transposed: [k, m]
    __shared__ float tile_b[DEPTH][TILE];
    const int tx = threadIdx.x, ty = threadIdx.y, thread = ty * 16 + tx;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
        for (int i = thread; i < TILE * DEPTH; i += 256) {
            const int row = row0 + i / DEPTH, depth = k0 + i % DEPTH;
            tile_a[i % DEPTH][i / DEPTH] = row < m && depth < k ? a[row * k + depth] : 0.0f;
        }
        for (int i = thread; i < TILE * DEPTH; i += 256) {
            const int depth = k0 + i / TILE, column = column0 + i % TILE;
            tile_b[i / TILE][i % TILE] = depth < k && column < n ? b[depth * n + column] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < DEPTH; ++depth) {
            float x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) x[i] = tile_a[depth][ty + 16 * i];
#pragma unroll
            for (int j = 0; j < 4; ++j) y[j] = tile_b[depth][tx + 16 * j];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int row = row0 + ty + 16 * i, column = column0 + tx + 16 * j;
            if (row < m && column < n) c[row * n + column] = sum[i][j];
        }
}
