// kernelc: compute_90a
// Clusters of blocks: weights that one copy brings to all of them, rows that reach into each other, counts in the first one's memory.

#include "cluster.cuh"

#define STEPS 7
#define STAGES 2
#define WIDTH 64

// y[block][i] = sum_t w[t][i] (x[block] + t), WIDTH columns. Two blocks share a stream of rows of weights: each fetches half of a row for
// both. A stage is free when the consumers of both blocks have read it: they tell both producers.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) weighted_sums(const float *w, const float *x, float *y) {
    __shared__ alignas(16) float stage[STAGES][WIDTH];
    __shared__ u64 full[STAGES], empty[STAGES];
    const unsigned me = rank();
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) init(&full[s], 1), init(&empty[s], 4);
        show();
    }
    cluster_arrive_relaxed();
    cluster_wait();
    if (threadIdx.x < 32) {
        if (threadIdx.x == 0) {
            for (int t = 0; t < STEPS; ++t) {
                const int s = t % STAGES, half = me * WIDTH / 2;
                if (t >= STAGES) wait(&empty[s], (t / STAGES - 1) % 2);
                expect(&full[s], WIDTH * sizeof(float));
                multicast(&stage[s][half], &w[t * WIDTH + half], WIDTH / 2 * sizeof(float), &full[s], 3);
            }
        }
    } else {
        const int i = threadIdx.x - 32;
        const float own = x[blockIdx.x];
        float sum = 0;
        for (int t = 0; t < STEPS; ++t) {
            const int s = t % STAGES;
            wait(&full[s], t / STAGES % 2);
            sum += stage[s][i] * (own + float(t));
            __syncwarp();
            if (i % 32 < 2) arrive_at(peer(&empty[s], i % 32));
        }
        y[blockIdx.x * WIDTH + i] = sum;
    }
    // No block ends while the other can still reach its mbarriers.
    cluster_sync();
}

// y = x[i - 1] + x[i] + x[i + 1] along rows of 4 x 64 elements, a row to a cluster of four blocks: neighbours' ends come from their shared
// memory. The row goes on with zeros.
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(64) row_sums(const float *x, float *y) {
    __shared__ float part[64];
    const unsigned me = rank(), i = threadIdx.x, element = blockIdx.x * 64 + i;
    part[i] = x[element];
    cluster_sync();
    float left = 0, right = 0;
    if (i > 0)
        left = part[i - 1];
    else if (me > 0)
        left = load(peer(&part[63], me - 1));
    if (i < 63)
        right = part[i + 1];
    else if (me < 3)
        right = load(peer(&part[0], me + 1));
    y[element] = left + part[i] + right;
    cluster_sync();
}

// How often each of 32 values is among 256 per cluster, counted by atomics in the first block's memory; generic addresses.
extern "C" __global__ void __cluster_dims__(1, 2, 1) __launch_bounds__(128) counts(const unsigned *x, unsigned *y) {
    __shared__ unsigned bins[32];
    if (threadIdx.x < 32) bins[threadIdx.x] = 0;
    cluster_sync();
    unsigned *first;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(first) : "l"(&bins[0]), "r"(0));
    atomicAdd(&first[x[(blockIdx.x * 2 + blockIdx.y) * 128 + threadIdx.x] % 32], 1u);
    cluster_sync();
    if (rank() == 0 && threadIdx.x < 32) y[blockIdx.x * 32 + threadIdx.x] = bins[threadIdx.x];
}

// Blocks of a cluster hand global memory to each other: y is x with the halves of each pair of blocks exchanged.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64) exchanged(const float *x, float *y, float *room) {
    room[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    cluster_sync();
    y[blockIdx.x * 64 + threadIdx.x] = room[(blockIdx.x ^ 1) * 64 + 63 - threadIdx.x];
}
