// Planted bugs around cp.async, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same arguments.
// Block: 64 threads; x and y hold 64 floats, or 64 * batches.

#include "tiles.cuh"

// y[i] = own element, copied asynchronously. The bug reads it before waiting for the copy.
extern "C" __global__ void copy_wait_ok(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    copy_async_wait<0>();
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void copy_wait_bug(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    y[threadIdx.x] = tile[threadIdx.x];
}

// y[i] = x[63 - i]. The bug waits for its own copies but has no barrier, so other threads' may be missing.
extern "C" __global__ void copy_barrier_ok(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void copy_barrier_bug(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    copy_async_wait<0>();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

// y[b, i] = x[b, 63 - i], double-buffered. The bug waits for one group too few.
template <int PENDING> __device__ inline void pipeline(const float *x, float *y, int batches) {
    __shared__ float tile[2][64];
    copy_async_4(&tile[0][threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    for (int b = 0; b < batches; ++b) {
        if (b + 1 < batches) copy_async_4(&tile[(b + 1) % 2][threadIdx.x], &x[(b + 1) * 64 + threadIdx.x], 4);
        copy_async_commit();
        copy_async_wait<PENDING>();
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[b % 2][63 - threadIdx.x];
        __syncthreads();
    }
}
extern "C" __global__ void copy_group_ok(const float *x, float *y, int batches) { pipeline<1>(x, y, batches); }
extern "C" __global__ void copy_group_bug(const float *x, float *y, int batches) { pipeline<2>(x, y, batches); }

// The same with 16-byte copies by 16 threads. The bug commits but the copy of the next tile lands in the buffer that is
// still being read.
extern "C" __global__ void copy_refill_ok(const float *x, float *y, int batches) {
    __shared__ __align__(16) float tile[64];
    for (int b = 0; b < batches; ++b) {
        if (threadIdx.x < 16) copy_async_16(&tile[4 * threadIdx.x], &x[b * 64 + 4 * threadIdx.x], 16);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[63 - threadIdx.x];
        __syncthreads();
    }
}
extern "C" __global__ void copy_refill_bug(const float *x, float *y, int batches) {
    __shared__ __align__(16) float tile[64];
    for (int b = 0; b < batches; ++b) {
        if (threadIdx.x < 16) copy_async_16(&tile[4 * threadIdx.x], &x[b * 64 + 4 * threadIdx.x], 16);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[63 - threadIdx.x];
    }
}

// y[i] = 1. The bug writes to where its own copy is still under way.
extern "C" __global__ void copy_overwritten_ok(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    copy_async_wait<0>();
    tile[threadIdx.x] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void copy_overwritten_bug(const float *x, float *y) {
    __shared__ float tile[64];
    copy_async_4(&tile[threadIdx.x], &x[threadIdx.x], 4);
    copy_async_commit();
    tile[threadIdx.x] = 1.0f;
    copy_async_wait<0>();
    y[threadIdx.x] = tile[threadIdx.x];
}
