// Regularisers: the sum of the largest singular values of weights, and of the largest gains of batch norms.
//
// A weight is stored as w[r, c], which is W transposed. From the state u, `iterations` times: v = norm(w u), t = w^T v, u = norm(t), with
// norm(x) = x / max(|x|, 1e-3); then sigma = u . t. A row gives v_r = w_r . u and joins t = sum of v_r w_r while it is in a cache, so an
// iteration reads w once; |v| divides t afterwards, |t| the next product. `right` is v before its division, `left` is t before both.
//
//   spectral_sigma_f32_whole(weights, iterations)        a block does all iterations of a weight: small weights
//   spectral_sigma_f32_rows(weights, pieces, first)      right, and the sums over the rows of a piece: partial, squares; a block a piece
//   spectral_sigma_f32_columns(weights, tiles)           left[c] = sum of partial[:, c], and that of squares; a block 32
//                                                        columns of a weight
//   spectral_sigma_f32_finish(weights)                   u, its copy, v and sigma of a weight; a block a weight
//   spectral_sigma_dgrad_f32(dsum, pieces)               dw[r, c] = dsum v[r] u[c]; a block a piece of a gradient
//   max_abs_sum_f32(tensors, largest, count)             largest[i] = max |x_i|; a warp a tensor
//   max_abs_sum_dgrad_f32(dy, tensors, count)            dx_i = dy sign(x_i) / ties where |x_i| is the largest, else 0; a warp a tensor
//   spectral_f32_total(x, y, count)                      y = sum of x; one warp
//
// Limit: bytes, 4 an element of w and iteration; 4 an element of dw; for small weights the latency of the iterations' chain. rows,
// columns and finish depend on each other through whole weights, which is what launches are for: 2 iterations + 2 of them.

#include "reduce.cuh"

#define NORM_FLOOR 1e-3f

// Rows of a piece at most; PIECE_ROWS in src/ops/spectral/cuda.rs.
#define PIECE_ROWS 1024

// A weight with its vectors; a row of the table of weights.
struct Weight {
    const float *w;
    // The state [columns] and its copy for the gradient; right [rows], in the end v.
    float *u, *copy, *right;
    // left [columns]; partial [pieces, lanes, columns], and squares [pieces] with their sum behind them, not used by
    // spectral_sigma_f32_whole; sigma, one number.
    float *left, *partial, *squares, *sigma;
    unsigned long long rows, columns;
    // Pieces, and rows of each but the last.
    unsigned long long pieces, piece;
};

// Threads side by side on a row's columns, and rows at once: for narrow weights several.
struct Lanes {
    unsigned width, rows, column, row;

    __device__ explicit Lanes(unsigned columns) {
        width = min(columns, blockDim.x);
        rows = blockDim.x / width;
        column = threadIdx.x % width;
        row = threadIdx.x / width;
    }
};

// What a vector of this length is multiplied by to be normal.
__device__ inline float inverse(float norm) { return 1.0f / fmaxf(norm, NORM_FLOOR); }

// The length of x over the block, in every thread.
__device__ inline float length(const float *x, unsigned n, float *room) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[i] * x[i];
    return sqrtf(block_sum(sum, room));
}

// right[r] = scale w_r . u for the rows of a range; a warp a row.
__device__ inline void times_left(const float *w, const float *u, float scale, float *right, unsigned rows, unsigned columns) {
    for (unsigned r = threadIdx.x / 32; r < rows; r += blockDim.x / 32) {
        float sum = 0.0f;
        for (unsigned c = threadIdx.x % 32; c < columns; c += 32) sum += w[r * columns + c] * u[c];
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) right[r] = scale * sum;
    }
}

// The sum over this thread's rows of right[r] w[r, c].
__device__ inline float times_right(const float *w, const float *right, unsigned rows, unsigned columns, unsigned c, const Lanes &lanes) {
    float sum = 0.0f;
#pragma unroll 4
    for (unsigned r = lanes.row; r < rows; r += lanes.rows) sum += right[r] * w[r * columns + c];
    return sum;
}

extern "C" __global__ void spectral_sigma_f32_whole(const Weight *weights, unsigned iterations) {
    __shared__ float room[32];
    __shared__ float part[256];
    const Weight weight = weights[blockIdx.x];
    const unsigned rows = weight.rows, columns = weight.columns;
    const Lanes lanes(columns);
    const float *u = weight.u;
    float scale = 1.0f, by_right = 0.0f, norm = 0.0f;
    for (unsigned iteration = 0; iteration < iterations; ++iteration) {
        times_left(weight.w, u, scale, weight.right, rows, columns);
        __syncthreads();
        by_right = inverse(length(weight.right, rows, room));
        for (unsigned tile = 0; tile < columns; tile += lanes.width) {
            const unsigned c = tile + lanes.column;
            if (lanes.row < lanes.rows && c < columns)
                part[threadIdx.x] = times_right(weight.w, weight.right, rows, columns, c, lanes);
            __syncthreads();
            if (lanes.row == 0 && c < columns) {
                float sum = 0.0f;
                for (unsigned row = 0; row < lanes.rows; ++row) sum += part[row * lanes.width + lanes.column];
                weight.left[c] = sum;
            }
            __syncthreads();
        }
        norm = by_right * length(weight.left, columns, room);
        scale = by_right * inverse(norm);
        u = weight.left;
    }
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) weight.u[c] = weight.copy[c] = scale * weight.left[c];
    for (unsigned r = threadIdx.x; r < rows; r += blockDim.x) weight.right[r] *= by_right;
    if (threadIdx.x == 0) *weight.sigma = norm * norm * inverse(norm);
}

// A piece of a weight; a row of the table of pieces.
struct Piece {
    unsigned long long weight, index;
};

// What left and right have to be multiplied by.
struct Scales {
    float by_right, norm, by_left;

    __device__ Scales(const Weight &weight, float *room) {
        by_right = inverse(sqrtf(weight.squares[weight.pieces]));
        norm = by_right * length(weight.left, weight.columns, room);
        by_left = by_right * inverse(norm);
    }
};

extern "C" __global__ void spectral_sigma_f32_rows(const Weight *weights, const Piece *pieces, unsigned first) {
    __shared__ float room[32];
    __shared__ float right[PIECE_ROWS];
    const Piece piece = pieces[blockIdx.x];
    const Weight weight = weights[piece.weight];
    const unsigned columns = weight.columns, start = piece.index * weight.piece;
    const unsigned rows = min(static_cast<unsigned>(weight.piece), static_cast<unsigned>(weight.rows) - start);
    const float *w = weight.w + start * columns;
    times_left(w, first ? weight.u : weight.left, first ? 1.0f : Scales(weight, room).by_left, right, rows, columns);
    __syncthreads();
    for (unsigned r = threadIdx.x; r < rows; r += blockDim.x) weight.right[start + r] = right[r];
    const float norm = length(right, rows, room);
    if (threadIdx.x == 0) weight.squares[piece.index] = norm * norm;
    const Lanes lanes(columns);
    float *partial = weight.partial + piece.index * lanes.rows * columns;
    if (lanes.row >= lanes.rows) return;
    for (unsigned c = lanes.column; c < columns; c += lanes.width)
        partial[lanes.row * columns + c] = times_right(w, right, rows, columns, c, lanes);
}

// 32 columns of a weight; a row of the table of tiles.
struct Tile {
    unsigned long long weight, column;
};

extern "C" __global__ void spectral_sigma_f32_columns(const Weight *weights, const Tile *tiles) {
    __shared__ float room[32];
    __shared__ float part[8][32];
    const Tile tile = tiles[blockIdx.x];
    const Weight weight = weights[tile.weight];
    const unsigned columns = weight.columns, lane = threadIdx.x % 32, c = tile.column + lane;
    const unsigned parts = weight.pieces * Lanes(columns).rows;
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 4
        for (unsigned i = threadIdx.x / 32; i < parts; i += 8) sum += weight.partial[i * columns + c];
    }
    part[threadIdx.x / 32][lane] = sum;
    if (tile.column == 0) {
        float square = 0.0f;
        for (unsigned i = threadIdx.x; i < weight.pieces; i += blockDim.x) square += weight.squares[i];
        square = block_sum(square, room);
        if (threadIdx.x == 0) weight.squares[weight.pieces] = square;
    }
    __syncthreads();
    if (threadIdx.x >= 32 || c >= columns) return;
    sum = part[0][lane];
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += part[i][lane];
    weight.left[c] = sum;
}

extern "C" __global__ void spectral_sigma_f32_finish(const Weight *weights) {
    __shared__ float room[32];
    const Weight weight = weights[blockIdx.x];
    const Scales scales(weight, room);
    for (unsigned c = threadIdx.x; c < weight.columns; c += blockDim.x) weight.u[c] = weight.copy[c] = scales.by_left * weight.left[c];
    for (unsigned r = threadIdx.x; r < weight.rows; r += blockDim.x) weight.right[r] *= scales.by_right;
    if (threadIdx.x == 0) *weight.sigma = scales.norm * scales.norm * inverse(scales.norm);
}

// A piece of a gradient: elements start .. start + count of dw[r, c]; a row of the table of pieces.
struct Outer {
    float *dw;
    const float *u, *v;
    unsigned long long start, count, columns;
};

extern "C" __global__ void spectral_sigma_dgrad_f32(const float *dsum, const Outer *pieces) {
    const Outer piece = pieces[blockIdx.x];
    const float scale = *dsum;
    const unsigned columns = piece.columns, count = piece.count, start = piece.start;
    // A step of blockDim.x elements in rows and columns: one division a thread instead of one an element.
    const unsigned rows_on = blockDim.x / columns, columns_on = blockDim.x % columns;
    unsigned r = (start + threadIdx.x) / columns, c = (start + threadIdx.x) % columns;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        piece.dw[start + i] = scale * piece.v[r] * piece.u[c];
        r += rows_on;
        c += columns_on;
        if (c >= columns) c -= columns, ++r;
    }
}

// A tensor, and where its gradient goes if one is asked for; a row of the table of tensors.
struct Gains {
    const float *x;
    float *dx;
    unsigned long long count;
};

__device__ inline float largest_of(const Gains &gains) {
    float largest = 0.0f;
    for (unsigned i = threadIdx.x % 32; i < gains.count; i += 32) largest = fmaxf(largest, fabsf(gains.x[i]));
    return warp_max(largest);
}

extern "C" __global__ void max_abs_sum_f32(const Gains *tensors, float *largest, unsigned count) {
    const unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (i >= count) return;
    const float own = largest_of(tensors[i]);
    if (threadIdx.x % 32 == 0) largest[i] = own;
}

extern "C" __global__ void max_abs_sum_dgrad_f32(const float *dy, const Gains *tensors, unsigned count) {
    const unsigned tensor = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (tensor >= count) return;
    const Gains gains = tensors[tensor];
    const float largest = largest_of(gains);
    float ties = 0.0f;
    for (unsigned i = threadIdx.x % 32; i < gains.count; i += 32) ties += fabsf(gains.x[i]) == largest ? 1.0f : 0.0f;
    const float share = *dy / warp_sum(ties);
    for (unsigned i = threadIdx.x % 32; i < gains.count; i += 32) {
        const float x = gains.x[i];
        gains.dx[i] = largest > 0.0f && fabsf(x) == largest ? (x > 0.0f ? share : -share) : 0.0f;
    }
}

extern "C" __global__ void spectral_f32_total(const float *x, float *y, unsigned count) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += 32) sum += x[i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *y = static_cast<float>(sum);
}
