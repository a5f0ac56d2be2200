// Planted bugs between blocks, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same arguments.
// Block: 32 threads, at least two blocks.

// y[i] = block of element i, blocks of 32. The bug's blocks overlap by one element, which two blocks write differently.
extern "C" __global__ void overlap_ok(int *y) { y[blockIdx.x * 32 + threadIdx.x] = blockIdx.x; }
extern "C" __global__ void overlap_bug(int *y) { y[blockIdx.x * 31 + threadIdx.x] = blockIdx.x; }

// *any = 1 when an x is negative: blocks may write the same value without harm. The bug writes the block's number.
extern "C" __global__ void same_value_ok(const float *x, int *any) {
    if (x[blockIdx.x * 32 + threadIdx.x] < 0.0f) *any = 1;
}
extern "C" __global__ void same_value_bug(const float *x, int *any) {
    if (x[blockIdx.x * 32 + threadIdx.x] < 0.0f) *any = blockIdx.x;
}

// *count += number of positive x. The bug reads, adds and writes without an atomic.
extern "C" __global__ void counter_ok(const float *x, int *count) {
    if (x[blockIdx.x * 32 + threadIdx.x] > 0.0f) atomicAdd(count, 1);
}
extern "C" __global__ void counter_bug(const float *x, int *count) {
    if (x[blockIdx.x * 32 + threadIdx.x] > 0.0f) *count = *count + 1;
}

// y[i] = x[i] * 2 in place, then z[i] = y of the next block's element. The bug reads what another block of the same launch
// writes, with nothing between; the twin computes it from the input again.
extern "C" __global__ void neighbour_ok(const float *x, float *y, float *z) {
    const int i = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
    y[i] = 2.0f * x[i];
    z[i] = 2.0f * x[(i + 32) % n];
}
extern "C" __global__ void neighbour_bug(const float *x, float *y, float *z) {
    const int i = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
    y[i] = 2.0f * x[i];
    z[i] = y[(i + 32) % n];
}

// *count += 1 by every thread. The bug also sets it to zero in one block, as if that came first.
extern "C" __global__ void reset_ok(int *count) { atomicAdd(count, 1); }
extern "C" __global__ void reset_bug(int *count) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *count = 0;
    atomicAdd(count, 1);
}
