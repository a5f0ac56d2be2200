// Planted memory bugs, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same arguments.
// Block: 32 threads unless said otherwise.

// y[i] = x[i + 1] - x[i] for i < n - 1. The bug reads x[n].
extern "C" __global__ void past_end_ok(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - 1) y[i] = x[i + 1] - x[i];
}
extern "C" __global__ void past_end_bug(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i + 1] - x[i];
}

// y[i] = x[i] + x[i - 1], with x[-1] = 0. The bug reads x[-1].
extern "C" __global__ void before_start_ok(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + (i > 0 ? x[i - 1] : 0.0f);
}
extern "C" __global__ void before_start_bug(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + x[i - 1];
}

// y[i] = 2 x[i]. The bug has no guard, which shows in the tail block only.
extern "C" __global__ void tail_block_ok(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i];
}
extern "C" __global__ void tail_block_bug(const float *x, float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 2.0f * x[i];
}

// y[i] = shared tile reversed; 32 elements of shared memory. The bug writes tile[32].
extern "C" __global__ void past_shared_ok(const float *x, float *y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[31 - threadIdx.x];
}
extern "C" __global__ void past_shared_bug(const float *x, float *y) {
    __shared__ float tile[32];
    tile[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[32 - threadIdx.x];
}

// y[i] = sum of four consecutive floats starting at x[4 i + 4]. The bug's vector load starts at x[4 i + 3].
extern "C" __global__ void misaligned_ok(const float *x, float *y) {
    const float4 v = *reinterpret_cast<const float4 *>(x + 4 * threadIdx.x + 4);
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void misaligned_bug(const float *x, float *y) {
    const float4 v = *reinterpret_cast<const float4 *>(x + 4 * threadIdx.x + 3);
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

// y[i] = tile[i]. The bug leaves tile[31] unwritten.
extern "C" __global__ void unwritten_shared_ok(const float *x, float *y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void unwritten_shared_bug(const float *x, float *y) {
    __shared__ float tile[32];
    if (threadIdx.x < 31) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// scratch[i] = i, then y[i] = scratch[i]. The bug writes one element less.
extern "C" __global__ void unwritten_global_ok(float *scratch, float *y) {
    scratch[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = scratch[threadIdx.x] + 1.0f;
}
extern "C" __global__ void unwritten_global_bug(float *scratch, float *y) {
    if (threadIdx.x != 7) scratch[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = scratch[threadIdx.x] + 1.0f;
}

// y[i] = x[i] + 1. The bug sets the register that holds the 1 in the lower half of the warp only.
extern "C" __global__ void unwritten_register_ok(const float *x, float *y) {
    float z;
    asm volatile("{ .reg .f32 one; mov.f32 one, 0f3F800000; add.f32 %0, %1, one; }" : "=f"(z) : "f"(x[threadIdx.x]));
    y[threadIdx.x] = z;
}
extern "C" __global__ void unwritten_register_bug(const float *x, float *y) {
    float z;
    asm volatile("{ .reg .f32 one; .reg .pred low; setp.lt.u32 low, %2, 16; @low mov.f32 one, 0f3F800000; add.f32 %0, %1, one; }"
                 : "=f"(z)
                 : "f"(x[threadIdx.x]), "r"(threadIdx.x));
    y[threadIdx.x] = z;
}

// y[i] = sum of x[4 i .. 4 i + 4], cut at n. The bug reads four at once where fewer are left.
extern "C" __global__ void vector_tail_ok(const float *x, float *y, int n) {
    float sum = 0.0f;
    for (int i = 4 * threadIdx.x; i < 4 * threadIdx.x + 4 && i < n; ++i) sum += x[i];
    y[threadIdx.x] = sum;
}
extern "C" __global__ void vector_tail_bug(const float *x, float *y, int n) {
    float sum = 0.0f;
    if (4 * threadIdx.x < n) {
        const float4 v = reinterpret_cast<const float4 *>(x)[threadIdx.x];
        sum = v.x + v.y + v.z + v.w;
    }
    y[threadIdx.x] = sum;
}

// y[i] = an element of a local array of 16 that is indexed at run time. The bug leaves one unwritten.
template <int WRITTEN> __device__ inline float local_element(const float *x) {
    float local[16];
    for (int i = 0; i < WRITTEN; ++i) local[(i + threadIdx.x) % 16] = x[threadIdx.x] + i;
    return local[(static_cast<int>(x[31]) + threadIdx.x) % 16];
}
extern "C" __global__ void unwritten_local_ok(const float *x, float *y) { y[threadIdx.x] = local_element<16>(x); }
extern "C" __global__ void unwritten_local_bug(const float *x, float *y) { y[threadIdx.x] = local_element<15>(x); }

// y[i] = table[x[i]], a constant table of 8. The bug does not bring x into its range.
__constant__ float table[8] = {0.0f, 1.0f, 4.0f, 9.0f, 16.0f, 25.0f, 36.0f, 49.0f};
extern "C" __global__ void past_constant_ok(const float *x, float *y) { y[threadIdx.x] = table[static_cast<int>(x[threadIdx.x]) & 7]; }
extern "C" __global__ void past_constant_bug(const float *x, float *y) { y[threadIdx.x] = table[static_cast<int>(x[threadIdx.x]) + 1]; }
