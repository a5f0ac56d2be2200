// Planted bugs in global and local memory, each beside its correct twin: `<name>_bug` and `<name>_ok` take the same
// arguments. Block: 64 threads.

// y[b] = sum of four of x per block, which begin where blocks of 8 do. The last block of the bug begins two elements later.
template <int SHIFT> __device__ inline void last_vector(const float *x, float *y) {
    if (threadIdx.x != 0) return;
    const int start = blockIdx.x * 8 + (blockIdx.x == gridDim.x - 1 ? SHIFT : 0);
    const float4 v = *reinterpret_cast<const float4 *>(x + start);
    y[blockIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void last_vector_ok(const float *x, float *y) { last_vector<4>(x, y); }
extern "C" __global__ void last_vector_bug(const float *x, float *y) { last_vector<2>(x, y); }

// y[i] = sum of eight values that lie in local memory. The bug leaves the last as it was.
template <int LESS> __device__ inline void local_values(const float *x, float *y, int n) {
    float value[8];
    for (int j = 0; j < n - LESS; ++j) value[(j * 5) & 7] = x[(threadIdx.x + j) % 64];
    float sum = 0.0f;
    for (int j = 0; j < n; ++j) sum += value[(j * 3) & 7];
    y[threadIdx.x] = sum;
}
extern "C" __global__ void local_values_ok(const float *x, float *y, int n) { local_values<0>(x, y, n); }
extern "C" __global__ void local_values_bug(const float *x, float *y, int n) { local_values<1>(x, y, n); }

// The same; the bug writes one past the end of the array.
template <int MORE> __device__ inline void local_end(const float *x, float *y, int n) {
    float value[8];
    for (int j = 0; j < n + MORE; ++j) value[j] = x[(threadIdx.x + j) % 64];
    float sum = 0.0f;
    for (int j = 0; j < n; ++j) sum += value[(j * 3) & 7];
    y[threadIdx.x] = sum;
}
extern "C" __global__ void local_end_ok(const float *x, float *y, int n) { local_end<0>(x, y, n); }
extern "C" __global__ void local_end_bug(const float *x, float *y, int n) { local_end<1>(x, y, n); }

// z[i] = y[63 - i] through global memory. The bug's warps do not wait for each other.
template <bool BARRIER> __device__ inline void through_global(const float *x, float *y, float *z) {
    y[threadIdx.x] = 2.0f * x[threadIdx.x];
    if (BARRIER) __syncthreads();
    z[threadIdx.x] = y[63 - threadIdx.x];
}
extern "C" __global__ void through_global_ok(const float *x, float *y, float *z) { through_global<true>(x, y, z); }
extern "C" __global__ void through_global_bug(const float *x, float *y, float *z) { through_global<false>(x, y, z); }

// y[i] for i < 32 by both warps: the same value, which is harmless; in the bug each its own.
template <bool SAME> __device__ inline void written_twice(const float *x, float *y) {
    y[threadIdx.x % 32] = SAME ? x[threadIdx.x % 32] : x[threadIdx.x];
}
extern "C" __global__ void written_twice_ok(const float *x, float *y) { written_twice<true>(x, y); }
extern "C" __global__ void written_twice_bug(const float *x, float *y) { written_twice<false>(x, y); }

// y[i] = (y[i - 1] + y[i + 1]) / 2 in place, ends kept. The bug has no barrier between reading and writing.
template <bool BARRIER> __device__ inline void in_place(float *y) {
    const int i = threadIdx.x;
    const float left = y[i > 0 ? i - 1 : 0], right = y[i < 63 ? i + 1 : 63];
    if (BARRIER) __syncthreads();
    y[i] = 0.5f * (left + right);
}
extern "C" __global__ void in_place_ok(float *y) { in_place<true>(y); }
extern "C" __global__ void in_place_bug(float *y) { in_place<false>(y); }

// bins[x & 7] += 1, negative x add nothing. The bug's negative x clear the bin with a plain store.
template <bool CLEAR> __device__ inline void mixed_paths(const int *x, int *bins) {
    const int value = x[threadIdx.x + blockIdx.x * 64];
    if (value >= 0) atomicAdd(&bins[value & 7], 1);
    else if (CLEAR) bins[value & 7] = 0;
}
extern "C" __global__ void mixed_paths_ok(const int *x, int *bins) { mixed_paths<false>(x, bins); }
extern "C" __global__ void mixed_paths_bug(const int *x, int *bins) { mixed_paths<true>(x, bins); }

// y[i] = x[index[i]], where index was made for 60 of 64. The bug uses the rest as it is.
template <bool BOUND> __device__ inline void indexed(const float *x, const int *index, float *y) {
    const int i = threadIdx.x;
    float value = 0.0f;
    if (!BOUND || i < 60) value = x[index[i] & 63];
    y[i] = value;
}
extern "C" __global__ void indexed_ok(const float *x, const int *index, float *y) { indexed<true>(x, index, y); }
extern "C" __global__ void indexed_bug(const float *x, const int *index, float *y) { indexed<false>(x, index, y); }

// y[i] = x[i] - x[i - 1] with an unsigned index that passes below zero in the bug.
template <bool FIRST> __device__ inline void below_zero(const float *x, float *y) {
    const unsigned i = threadIdx.x;
    const float before = FIRST && i == 0 ? 0.0f : x[i - 1u];
    y[i] = x[i] - before;
}
extern "C" __global__ void below_zero_ok(const float *x, float *y) { below_zero<true>(x, y); }
extern "C" __global__ void below_zero_bug(const float *x, float *y) { below_zero<false>(x, y); }

// y[b, i] with rows of 60; each block clears its own row, in the bug 64 of it.
template <int WIDTH> __device__ inline void row_end(float *y) {
    if (threadIdx.x < WIDTH) y[blockIdx.x * 60 + threadIdx.x] = blockIdx.x + 1.0f;
}
extern "C" __global__ void row_end_ok(float *y) { row_end<60>(y); }
extern "C" __global__ void row_end_bug(float *y) { row_end<64>(y); }

// The same through a function that is called.
template <int WIDTH> __device__ __noinline__ void put(float *row, int i, float value) {
    if (i < WIDTH) row[i] = value; // put
}
extern "C" __global__ void called_ok(float *y) { put<60>(y, threadIdx.x, 1.0f); }
extern "C" __global__ void called_bug(float *y) { put<64>(y, threadIdx.x, 1.0f); }
