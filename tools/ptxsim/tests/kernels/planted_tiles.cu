// Planted bugs around tiles in shared memory, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same
// arguments. Block: 64 threads; x and y hold 64 * batches floats unless said otherwise.

#include "tiles.cuh"

// y[b, i] = x[b, 63 - i] through two buffers with one barrier per round. The bug reads the buffer that is being filled.
template <int READ> __device__ inline void two_buffers(const float *x, float *y, int batches) {
    __shared__ float tile[2][64];
    tile[0][threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int b = 0; b < batches; ++b) {
        if (b + 1 < batches) tile[(b + 1) & 1][threadIdx.x] = x[(b + 1) * 64 + threadIdx.x];
        y[b * 64 + threadIdx.x] = tile[(b + READ) & 1][63 - threadIdx.x];
        __syncthreads();
    }
}
extern "C" __global__ void two_buffers_ok(const float *x, float *y, int batches) { two_buffers<0>(x, y, batches); }
extern "C" __global__ void two_buffers_bug(const float *x, float *y, int batches) { two_buffers<1>(x, y, batches); }

// The same with three buffers filled asynchronously, two copies on their way. The bug leaves one more on its way.
template <int PENDING> __device__ inline void three_stages(const float *x, float *y, int batches) {
    __shared__ float tile[3][64];
    for (int b = 0; b < 2; ++b) {
        if (b < batches) copy_async_4(&tile[b][threadIdx.x], &x[b * 64 + threadIdx.x], 4);
        copy_async_commit();
    }
    for (int b = 0; b < batches; ++b) {
        copy_async_wait<PENDING>();
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[b % 3][63 - threadIdx.x];
        if (b + 2 < batches) copy_async_4(&tile[(b + 2) % 3][threadIdx.x], &x[(b + 2) * 64 + threadIdx.x], 4);
        copy_async_commit();
    }
}
extern "C" __global__ void three_stages_ok(const float *x, float *y, int batches) { three_stages<1>(x, y, batches); }
extern "C" __global__ void three_stages_bug(const float *x, float *y, int batches) { three_stages<2>(x, y, batches); }

// A matrix of 16 x 16 halves by ldmatrix (block: 32 threads; x: 256 halves, y: 128 words). The bug's rows of 20 halves do
// not begin at multiples of 16 bytes.
template <int STRIDE> __device__ inline void matrix_rows(const unsigned short *x, unsigned *y) {
    __shared__ __align__(16) unsigned short tile[16 * STRIDE];
    for (int i = threadIdx.x; i < 256; i += 32) tile[i / 16 * STRIDE + i % 16] = x[i];
    __syncwarp();
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(&tile[threadIdx.x % 16 * STRIDE + threadIdx.x / 16 * 8]));
    unsigned a, b, c, d;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at) : "memory");
    y[threadIdx.x * 4 + 0] = a;
    y[threadIdx.x * 4 + 1] = b;
    y[threadIdx.x * 4 + 2] = c;
    y[threadIdx.x * 4 + 3] = d;
}
extern "C" __global__ void matrix_rows_ok(const unsigned short *x, unsigned *y) { matrix_rows<24>(x, y); }
extern "C" __global__ void matrix_rows_bug(const unsigned short *x, unsigned *y) { matrix_rows<20>(x, y); }

// y[i] = mean of x[i - 1 .. i + 1] through dynamic shared memory of 66 floats. The bug forgets that the halo moves all by one.
template <int SHIFT> __device__ inline void dynamic_tile(const float *x, float *y) {
    extern __shared__ float halo[];
    const int i = threadIdx.x;
    halo[i + 1] = x[i];
    if (i == 0) halo[0] = x[0];
    if (i == 63) halo[65] = x[63];
    __syncthreads();
    y[i] = (halo[i + SHIFT] + halo[i + 1 + SHIFT] + halo[i + 2 + SHIFT]) / 3.0f;
}
extern "C" __global__ void dynamic_tile_ok(const float *x, float *y) { dynamic_tile<0>(x, y); }
extern "C" __global__ void dynamic_tile_bug(const float *x, float *y) { dynamic_tile<1>(x, y); }

// y[b, i] = x[b, 63 - i]. The bug's barrier before reading stands in the first round only.
template <bool ALWAYS> __device__ inline void first_round(const float *x, float *y, int batches) {
    __shared__ float tile[64];
    for (int b = 0; b < batches; ++b) {
        tile[threadIdx.x] = x[b * 64 + threadIdx.x];
        if (ALWAYS || b == 0) __syncthreads();
        y[b * 64 + threadIdx.x] = tile[63 - threadIdx.x];
        __syncthreads();
    }
}
extern "C" __global__ void first_round_ok(const float *x, float *y, int batches) { first_round<true>(x, y, batches); }
extern "C" __global__ void first_round_bug(const float *x, float *y, int batches) { first_round<false>(x, y, batches); }

// *y = sum of x by a tree (block: 128 threads). The bug has one barrier after the loop.
template <bool INSIDE> __device__ inline void tree(const float *x, float *y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int half = 64; half > 0; half >>= 1) {
        if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];
        if (INSIDE) __syncthreads();
    }
    __syncthreads();
    if (threadIdx.x == 0) *y = tile[0];
}
extern "C" __global__ void tree_ok(const float *x, float *y) { tree<true>(x, y); }
extern "C" __global__ void tree_bug(const float *x, float *y) { tree<false>(x, y); }

// Two reductions one after the other through the same words. The bug has no barrier between their use.
template <bool BETWEEN> __device__ inline void used_twice(const float *x, float *y) {
    __shared__ float scratch[2];
    float most = x[threadIdx.x], sum = x[threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
    __syncthreads();
    most = fmaxf(scratch[0], scratch[1]);
    if (BETWEEN) __syncthreads();
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
    __syncthreads();
    y[threadIdx.x] = most + scratch[0] + scratch[1];
}
extern "C" __global__ void used_twice_ok(const float *x, float *y) { used_twice<true>(x, y); }
extern "C" __global__ void used_twice_bug(const float *x, float *y) { used_twice<false>(x, y); }

// A histogram of 16 bins in shared memory. The bug's warp 1 clears the bins while warp 0 counts already.
template <bool AFTER> __device__ inline void bins(const int *x, int *y) {
    __shared__ int count[16];
    if (threadIdx.x >= 32 && threadIdx.x < 48) count[threadIdx.x - 32] = 0;
    if (AFTER) __syncthreads();
    atomicAdd(&count[x[threadIdx.x] & 15], 1);
    __syncthreads();
    if (threadIdx.x < 16) y[threadIdx.x] = count[threadIdx.x];
}
extern "C" __global__ void bins_ok(const int *x, int *y) { bins<true>(x, y); }
extern "C" __global__ void bins_bug(const int *x, int *y) { bins<false>(x, y); }

// Bytes of four threads share a word, which is no race. The bug's neighbours write one byte.
template <int STEP> __device__ inline void bytes(const float *x, unsigned char *y) {
    __shared__ unsigned char tile[64];
    tile[threadIdx.x / STEP] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x / STEP] + (x[threadIdx.x] > 0.0f);
}
extern "C" __global__ void bytes_ok(const float *x, unsigned char *y) { bytes<1>(x, y); }
extern "C" __global__ void bytes_bug(const float *x, unsigned char *y) { bytes<2>(x, y); }
