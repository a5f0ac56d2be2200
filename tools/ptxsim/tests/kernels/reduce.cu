// Sums of n floats four ways. All are limited by memory, 4 bytes per element. Block: 256 threads, any grid.
//
//   reduce_shuffle_f32   partial[block]: warp shuffles, then shared memory
//   reduce_tree_f32      partial[block]: a tree in shared memory
//   reduce_atomic_f32    *total += ...: one atomic per block after a shared atomic per warp
//   reduce_last_f32      *total = ...: the block that finishes last adds all partial sums, in block order

__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

__device__ inline float thread_sum(const float *x, int n) {
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    return sum;
}

// Valid in warp 0 only.
__device__ inline float block_sum(float x) {
    __shared__ float warps[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_sum(x);
    if (lane == 0) warps[warp] = x;
    __syncthreads();
    if (warp == 0) x = warp_sum(lane < (blockDim.x + 31) / 32 ? warps[lane] : 0.0f);
    return x;
}

extern "C" __global__ void reduce_shuffle_f32(const float *x, float *partial, int n) {
    const float sum = block_sum(thread_sum(x, n));
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) reduce_tree_f32(const float *x, float *partial, int n) {
    __shared__ float sums[256];
    sums[threadIdx.x] = thread_sum(x, n);
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

extern "C" __global__ void reduce_atomic_f32(const float *x, float *total, int n) {
    __shared__ float sum;
    if (threadIdx.x == 0) sum = 0.0f;
    __syncthreads();
    const float part = warp_sum(thread_sum(x, n));
    if (threadIdx.x % 32 == 0) atomicAdd(&sum, part);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, sum);
}

extern "C" __global__ void reduce_last_f32(const float *x, float *partial, unsigned *done, float *total, int n) {
    __shared__ bool last;
    const float sum = block_sum(thread_sum(x, n));
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence(); // the partial sum is seen before the ticket
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    if (threadIdx.x == 0) {
        __threadfence();
        float all = 0.0f;
        for (int block = 0; block < gridDim.x; ++block) all += __ldcg(&partial[block]);
        *total = all;
        *done = 0u; // ready for the next launch
    }
}
