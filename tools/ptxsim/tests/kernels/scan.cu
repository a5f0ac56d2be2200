// out[i] = sum_{j <= i} in[j], 32-bit integers, in three launches. Limit: memory, 16 bytes per element in all.
// Block: 256 threads, one element each. scan_blocks, then scan_sums (one block, at most 256 sums), then scan_add.

__device__ inline unsigned block_scan(unsigned x) {
    __shared__ unsigned warps[8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const unsigned left = __shfl_up_sync(0xffffffffu, x, offset);
        if (lane >= offset) x += left;
    }
    if (lane == 31) warps[warp] = x;
    __syncthreads();
    for (int before = 0; before < warp; ++before) x += warps[before];
    return x;
}

extern "C" __global__ void __launch_bounds__(256) scan_blocks(const unsigned *in, unsigned *out, unsigned *sums, int n) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    const unsigned x = block_scan(i < n ? in[i] : 0u);
    if (i < n) out[i] = x;
    if (threadIdx.x == 255) sums[blockIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(256) scan_sums(unsigned *sums, int blocks) {
    const unsigned x = block_scan(threadIdx.x < blocks ? sums[threadIdx.x] : 0u);
    if (threadIdx.x < blocks) sums[threadIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(256) scan_add(unsigned *out, const unsigned *sums, int n) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (blockIdx.x > 0 && i < n) out[i] += sums[blockIdx.x - 1];
}
