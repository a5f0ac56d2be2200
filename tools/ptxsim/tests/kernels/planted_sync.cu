// Planted synchronisation bugs inside a block, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same
// arguments. Block: 64 threads unless said otherwise.

// y[i] = x[63 - i] through shared memory. The bug lacks the barrier between writing and reading (read after write).
extern "C" __global__ void read_after_write_ok(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void read_after_write_bug(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

// y[b, i] = x[b, 63 - i] for b < batches, one tile after the other in the same buffer. The bug lacks the barrier before
// the next tile overwrites what others still read (write after read).
extern "C" __global__ void write_after_read_ok(const float *x, float *y, int batches) {
    __shared__ float tile[64];
    for (int b = 0; b < batches; ++b) {
        tile[threadIdx.x] = x[b * 64 + threadIdx.x];
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[63 - threadIdx.x];
        __syncthreads();
    }
}
extern "C" __global__ void write_after_read_bug(const float *x, float *y, int batches) {
    __shared__ float tile[64];
    for (int b = 0; b < batches; ++b) {
        tile[threadIdx.x] = x[b * 64 + threadIdx.x];
        __syncthreads();
        y[b * 64 + threadIdx.x] = tile[63 - threadIdx.x];
    }
}

// *y = the largest index of a positive x. The bug lets several warps write one shared word with different values.
extern "C" __global__ void write_after_write_ok(const float *x, int *y) {
    __shared__ int last;
    if (threadIdx.x == 0) last = -1;
    __syncthreads();
    if (x[threadIdx.x] > 0.0f) atomicMax(&last, static_cast<int>(threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) *y = last;
}
extern "C" __global__ void write_after_write_bug(const float *x, int *y) {
    __shared__ int last;
    if (threadIdx.x == 0) last = -1;
    __syncthreads();
    if (x[threadIdx.x] > 0.0f) last = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) *y = last;
}

// y[i] = x of the neighbouring lane through shared memory, warp by warp. The bug lacks __syncwarp.
extern "C" __global__ void warp_exchange_ok(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void warp_exchange_bug(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// y[i] = x[i ^ 1] for positive x[i], else 0. The bug has the barrier inside the branch.
extern "C" __global__ void divergent_barrier_ok(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x] > 0.0f ? tile[threadIdx.x ^ 1] : 0.0f;
}
extern "C" __global__ void divergent_barrier_bug(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    float z = 0.0f;
    if (x[threadIdx.x] > 0.0f) {
        __syncthreads();
        z = tile[threadIdx.x ^ 1];
    }
    y[threadIdx.x] = z;
}

// y[i] = x[i] + its right neighbour within 16 lanes. The bug's mask leaves out the upper lanes, which execute it too.
extern "C" __global__ void shuffle_mask_ok(const float *x, float *y) {
    const float right = __shfl_down_sync(0xffffffffu, x[threadIdx.x], 1, 16);
    y[threadIdx.x] = x[threadIdx.x] + right;
}
extern "C" __global__ void shuffle_mask_bug(const float *x, float *y) {
    const float right = __shfl_down_sync(0x0000ffffu, x[threadIdx.x], 1, 16);
    y[threadIdx.x] = x[threadIdx.x] + right;
}

// y[i] = x[i] + x of the last of the n lanes (n < 32; block: 32 threads). The bug asks lane 31, which has returned.
extern "C" __global__ void shuffle_exited_ok(const float *x, float *y, int n) {
    const unsigned mask = __ballot_sync(0xffffffffu, threadIdx.x < n);
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = x[threadIdx.x] + __shfl_sync(mask, x[threadIdx.x], n - 1);
}
extern "C" __global__ void shuffle_exited_bug(const float *x, float *y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = x[threadIdx.x] + __shfl_sync(0xffffffffu, x[threadIdx.x], 31);
}

// A shuffle inside a branch that only even lanes take. The bug names all lanes in its mask.
extern "C" __global__ void shuffle_divergent_ok(const float *x, float *y) {
    float z = x[threadIdx.x];
    if (threadIdx.x % 2 == 0) z += __shfl_xor_sync(0x55555555u, z, 2);
    y[threadIdx.x] = z;
}
extern "C" __global__ void shuffle_divergent_bug(const float *x, float *y) {
    float z = x[threadIdx.x];
    if (threadIdx.x % 2 == 0) z += __shfl_xor_sync(0xffffffffu, z, 1);
    y[threadIdx.x] = z;
}

// y[i] = x[4 (i % 32) + 1]: warp 0 fills the tile four elements at a time, warp 1 reads single ones. The bug lacks the barrier.
extern "C" __global__ void mixed_width_ok(const float *x, float *y) {
    __shared__ __align__(16) float tile[128];
    if (threadIdx.x < 32) reinterpret_cast<float4 *>(tile)[threadIdx.x] = reinterpret_cast<const float4 *>(x)[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[4 * (threadIdx.x % 32) + 1];
}
extern "C" __global__ void mixed_width_bug(const float *x, float *y) {
    __shared__ __align__(16) float tile[128];
    if (threadIdx.x < 32) reinterpret_cast<float4 *>(tile)[threadIdx.x] = reinterpret_cast<const float4 *>(x)[threadIdx.x];
    y[threadIdx.x] = tile[4 * (threadIdx.x % 32) + 1];
}

// A named barrier for both warps. In the bug it waits for 64 threads, of which 32 never come.
extern "C" __global__ void barrier_count_ok(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    asm volatile("bar.sync 1, 64;" ::: "memory");
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void barrier_count_bug(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
    y[threadIdx.x] = tile[threadIdx.x];
}

// y[i] = number of positive x, counted with shared atomics. The bug reads the count with no barrier after them.
extern "C" __global__ void atomic_count_ok(const float *x, int *y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (x[threadIdx.x] > 0.0f) atomicAdd(&count, 1);
    __syncthreads();
    y[threadIdx.x] = count;
}
extern "C" __global__ void atomic_count_bug(const float *x, int *y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (x[threadIdx.x] > 0.0f) atomicAdd(&count, 1);
    y[threadIdx.x] = count;
}
