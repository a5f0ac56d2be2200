// y[r] = sum_c x[r, c] over rows of different length, by blocks that stay and take the next row from a counter.
// row_start[rows + 1] gives the rows. Limit: memory. Block: 64 threads; grid: as many blocks as fit, fewer than rows.

extern "C" __global__ void __launch_bounds__(64) row_sums(const int *row_start, const int *x, int *y, unsigned *counter, int rows) {
    __shared__ int row;
    __shared__ int sums[2];
    while (true) {
        if (threadIdx.x == 0) row = atomicAdd(counter, 1u);
        __syncthreads();
        const int r = row;
        if (r >= rows) return;
        int sum = 0;
        for (int i = row_start[r] + threadIdx.x; i < row_start[r + 1]; i += 64) sum += x[i];
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) y[r] = sums[0] + sums[1];
        // No barrier here: the next barrier stands between these reads and the next writes of `sums`, and `row` was
        // read before the last one.
    }
}
