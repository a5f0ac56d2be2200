// Correct ways to work together that a checker could take for races: locks, flags between blocks, named barriers, parts of
// warps, compare-and-swap loops, bytes beside words.

// *sum += 1 by every block, under a lock taken by thread 0. Any block and grid.
extern "C" __global__ void spin_lock(int *lock, int *sum) {
    if (threadIdx.x == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {
        }
        __threadfence();
        volatile int *guarded = sum;
        *guarded = *guarded + 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}

// y = inclusive scan of x in one launch: each block takes a ticket, waits for the sum of the blocks before it, and passes on
// its own. state and ticket start as 0; one entry of state and total per block. Block: 64 threads, one element each.
extern "C" __global__ void __launch_bounds__(64) scan_chained(const int *x, int *y, volatile int *state, volatile int *total, int *ticket) {
    __shared__ int block, before, first_warp;
    const int lane = threadIdx.x % 32;
    if (threadIdx.x == 0) block = atomicAdd(ticket, 1);
    __syncthreads();
    int sum = x[block * 64 + threadIdx.x];
    for (int offset = 1; offset < 32; offset *= 2) {
        const int left = __shfl_up_sync(0xffffffffu, sum, offset);
        if (lane >= offset) sum += left;
    }
    if (threadIdx.x == 31) first_warp = sum;
    __syncthreads();
    if (threadIdx.x >= 32) sum += first_warp;
    if (threadIdx.x == 63) {
        before = 0;
        if (block > 0) {
            while (state[block - 1] == 0) {
            }
            __threadfence();
            before = total[block - 1];
        }
        total[block] = before + sum;
        __threadfence(); // the total is seen before the flag
        state[block] = 1;
    }
    __syncthreads();
    y[block * 64 + threadIdx.x] = before + sum;
}

// y[i, l] = x[i, 31 - l] for i < steps: warp 0 fills a buffer, warp 1 empties it, with two named barriers of 64 threads: one
// says full, one says empty; who goes on working only arrives. Block: 64 threads.
extern "C" __global__ void producer_consumer(const float *x, float *y, int steps) {
    __shared__ float buffer[32];
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < steps; ++i) {
        if (threadIdx.x < 32) {
            buffer[lane] = x[i * 32 + lane];
            asm volatile("bar.arrive 1, 64;" ::: "memory");
            asm volatile("bar.sync 2, 64;" ::: "memory");
        } else {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            y[i * 32 + lane] = buffer[31 - lane];
            asm volatile("bar.arrive 2, 64;" ::: "memory");
        }
    }
}

// Neighbours exchange within half a warp, each half on a path of its own with a mask of its own: y[i] = x[i ^ 1] in the lower
// half, 2 x[i ^ 3] in the upper. Block: 64 threads.
extern "C" __global__ void half_warps(const float *x, float *y) {
    __shared__ float tile[64];
    if (threadIdx.x % 32 < 16) {
        tile[threadIdx.x] = x[threadIdx.x];
        __syncwarp(0x0000ffffu);
        y[threadIdx.x] = tile[threadIdx.x ^ 1];
    } else {
        tile[threadIdx.x] = 2.0f * x[threadIdx.x];
        __syncwarp(0xffff0000u);
        y[threadIdx.x] = tile[threadIdx.x ^ 3];
    }
}

// *largest = max of it and all x, by compare-and-swap, in shared memory first. Block: 64 threads, any grid.
__device__ inline void max_by_swap(int *target, float value) {
    int seen = *target;
    while (__int_as_float(seen) < value) {
        const int found = atomicCAS(target, seen, __float_as_int(value));
        if (found == seen) break;
        seen = found;
    }
}
extern "C" __global__ void largest_f32(const float *x, int *largest) {
    __shared__ int block;
    if (threadIdx.x == 0) block = 0xff800000; // minus infinity
    __syncthreads();
    max_by_swap(&block, x[blockIdx.x * 64 + threadIdx.x]);
    __syncthreads();
    if (threadIdx.x == 0) max_by_swap(largest, __int_as_float(block));
}

// y[w] = bytes x[4 w .. 4 w + 4] as a word, written as bytes and read as words. Block: 32 threads.
extern "C" __global__ void bytes_to_words(const unsigned char *x, unsigned *y) {
    __shared__ __align__(4) unsigned char bytes[128];
    for (int i = threadIdx.x; i < 128; i += 32) bytes[i] = x[i];
    __syncthreads();
    y[threadIdx.x] = reinterpret_cast<const unsigned *>(bytes)[threadIdx.x];
}

// y[i] = sum of x[b, i'] over steps b, i' = 63 - i, with two buffers and one barrier per step: a thread that is a step ahead
// writes the other buffer. Block: 64 threads.
extern "C" __global__ void two_buffers(const float *x, float *y, int steps) {
    __shared__ float tile[2][64];
    float sum = 0.0f;
    for (int b = 0; b < steps; ++b) {
        tile[b % 2][threadIdx.x] = x[b * 64 + threadIdx.x];
        __syncthreads();
        sum += tile[b % 2][63 - threadIdx.x];
    }
    y[threadIdx.x] = sum;
}
