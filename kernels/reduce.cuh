// Sums and largest numbers over the lanes of a warp, the threads of a block and the rows of a block, each in an order that depends
// on the geometry alone: the same launch gives the same bits every time.
#pragma once

// The sum over the 32 lanes, the same bits in every lane. T is float or double; all lanes call.
template <class T>
__device__ inline T warp_sum(T v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
    return v;
}

// The largest number of the 32 lanes, in every lane.
__device__ inline float warp_max(float v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, distance));
    return v;
}

// The sum over a block of whole warps along x, in every thread. All threads call; `room` is 32 numbers of shared memory, which the next
// call may use again.
template <class T>
__device__ inline T block_sum(T v, T *room) {
    const unsigned lane = threadIdx.x % 32;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) room[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? room[lane] : T(0));
}

// The largest number of a block of whole warps along x, in every thread; as block_sum.
__device__ inline float block_max(float v, float *room) {
    const unsigned lane = threadIdx.x % 32;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) room[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(room[lane < blockDim.x / 32 ? lane : 0]);
}

// N sums that are carried side by side; `Sums<N> own = {}` starts at zero. Fours go to shared memory and back as one access each.
template <int N>
struct alignas(N % 4 == 0 ? 16 : 4) Sums {
    float v[N];

    __device__ void join(const Sums &other) {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] += other.v[i];
    }
};

// Threads of a block that column sums use at most; their tree needs room for half of them.
#define COLUMN_THREADS 256

// Joins what the threads of each column hold, for a block whose thread t stands at row t / width and column t % width; the threads
// of row 0 get the whole. All threads call; blockDim.x is at most COLUMN_THREADS, what is left of it after whole rows takes no part, `room` is
// COLUMN_THREADS / 2 of S in shared memory. S has `join`, which need not commute: a row always joins a later one.
template <class S>
__device__ inline void join_rows(S &own, unsigned width, S *room) {
    for (unsigned rows = blockDim.x / width; rows > 1;) {
        const unsigned kept = (rows + 1) / 2 * width;
        __syncthreads();
        if (threadIdx.x >= kept && threadIdx.x < rows * width) room[threadIdx.x - kept] = own;
        __syncthreads();
        if (threadIdx.x + kept < rows * width) own.join(room[threadIdx.x]);
        rows = (rows + 1) / 2;
    }
}
