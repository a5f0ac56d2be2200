// counts[b] += |{i : x[i] = b}| for bytes. Limit: memory, 1 byte per element. Shared atomics, then one global atomic per
// bin and block that met it; bytes are read four at a time where the address allows. Block: 128 threads, any grid.

extern "C" __global__ void __launch_bounds__(128) histogram_u8(const unsigned char *x, unsigned *counts, int n) {
    __shared__ unsigned bins[256];
    for (int bin = threadIdx.x; bin < 256; bin += 128) bins[bin] = 0;
    __syncthreads();
    const int threads = gridDim.x * 128, thread = blockIdx.x * 128 + threadIdx.x;
    const int words = n / 4;
    for (int i = thread; i < words; i += threads) {
        const unsigned four = reinterpret_cast<const unsigned *>(x)[i];
        atomicAdd(&bins[four & 255u], 1u);
        atomicAdd(&bins[four >> 8 & 255u], 1u);
        atomicAdd(&bins[four >> 16 & 255u], 1u);
        atomicAdd(&bins[four >> 24], 1u);
    }
    for (int i = words * 4 + thread; i < n; i += threads) atomicAdd(&bins[x[i]], 1u);
    __syncthreads();
    for (int bin = threadIdx.x; bin < 256; bin += 128)
        if (bins[bin] != 0) atomicAdd(&counts[bin], bins[bin]);
}
