// Convolution in f32: implicit matrix products (conv2d.cuh, tiles.cuh), the direct form, and what all precisions share.
//
//   conv2d_fprop_f32_<tile>(x, w, x2, w2, bias, residual, y, after, conv, channels, pooled, pre, post)
//       y = post(conv(pre(x), w) + x2 w2 + bias + residual), into y, or into `after` and what post is taken of into y
//   conv2d_dgrad_f32_<tile>(dy, wt, dy2, wt2, x, residual, start, dx, dx2, conv, split, halved, pre)
//       [dx, dx2] = pre'(x) * (conv^T(dy, w) + dy2 w2^T + residual) + start
//   conv2d_wgrad_f32_<tile>(x, dy, part, conv, pre, share)                                 dw in parts of `share` pixels
//   conv2d_fprop_f32_direct(x, w, bias, residual, y, after, conv, pre, post), conv2d_dgrad_f32_direct(dy, wt, x, start, dx, conv, pre),
//   conv2d_wgrad_f32_direct as by tiles: any groups, the oracle of the others; with groups dgrad reads w, not wt
//   conv2d_wgrad_reduce_f32(part, dw, count, parts)
//   conv2d_pack_f32(w, wt, rows, columns, matrices, count): wt[t, j, i] = w[t, i, j], zeros behind up to `count`
//
// x [n, h, w, cin], w [kh, kw, cin / groups, cout], y and dy [n, oh, ow, cout].
// What may be null is what a launch does without: x2 and w2, bias, residual, after; dy2 and wt2, x, residual, start, dx2.
// Limit: 2 n oh ow kh kw cin cout FLOPs; the direct form reads both factors of each product from L1. Geometry of the tiled form: a block
// per tile, phases of dgrad and parts of wgrad along z; of the direct form: a thread per output element, parts along z.

#include "conv2d.cuh"
#include "conv2d_pack.cuh"

// A thread per y[n, oy, ox, o].
extern "C" __global__ void conv2d_fprop_f32_direct(const float *x, const float *w, const float *bias, const float *residual, float *y,
                                                   float *after, Conv c, unsigned pre, unsigned post) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= c.n * c.oh * c.ow * c.cout) return;
    const int o = at % c.cout, p = at / c.cout;
    const int ox = p % c.ow, oy = p / c.ow % c.oh, image = p / c.ow / c.oh;
    const int in_group = c.cin / c.groups, first = o / (c.cout / c.groups) * in_group;
    float sum = 0.0f;
    for (int tap = 0; tap < c.kh * c.kw; ++tap) {
        const int iy = oy * c.stride - c.pad_top + tap / c.kw * c.dilation;
        const int ix = ox * c.stride - c.pad_left + tap % c.kw * c.dilation;
        if (iy < 0 || iy >= c.h || ix < 0 || ix >= c.w) continue;
        const float *pixel = &x[((image * c.h + iy) * c.w + ix) * c.cin + first];
        const float *row = &w[tap * in_group * c.cout + o];
        for (int i = 0; i < in_group; ++i) sum = fmaf(activate(pre, pixel[i]), row[i * c.cout], sum);
    }
    if (bias != nullptr) sum += bias[o];
    if (residual != nullptr) sum += residual[at];
    if (after != nullptr) y[at] = sum;
    (after != nullptr ? after : y)[at] = activate(post, sum);
}

// A thread per dx[n, iy, ix, i]. With groups the weights are w[tap, i, o], else wt[tap, o, i].
extern "C" __global__ void conv2d_dgrad_f32_direct(const float *dy, const float *weights, const float *x, const float *start, float *dx,
                                                   Conv c, unsigned pre) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= c.n * c.h * c.w * c.cin) return;
    const int i = at % c.cin, q = at / c.cin;
    const int ix = q % c.w, iy = q / c.w % c.h, image = q / c.w / c.h;
    const int in_group = c.cin / c.groups, out_group = c.cout / c.groups, first = i / in_group * out_group;
    float sum = 0.0f;
    for (int tap = 0; tap < c.kh * c.kw; ++tap) {
        const int y = iy + c.pad_top - tap / c.kw * c.dilation, x = ix + c.pad_left - tap % c.kw * c.dilation;
        if (y % c.stride != 0 || x % c.stride != 0) continue;
        const int oy = y / c.stride, ox = x / c.stride;
        if (oy < 0 || oy >= c.oh || ox < 0 || ox >= c.ow) continue;
        const float *pixel = &dy[((image * c.oh + oy) * c.ow + ox) * c.cout + first];
        const float *row = &weights[c.groups > 1 ? (tap * in_group + i % in_group) * c.cout + first : tap * c.cout * c.cin + i];
        const int next = c.groups > 1 ? 1 : c.cin;
        for (int o = 0; o < out_group; ++o) sum = fmaf(pixel[o], row[o * next], sum);
    }
    if (pre != 0) sum *= activation_slope(pre, x[at]);
    dx[at] = start != nullptr ? sum + start[at] : sum;
}

// A thread per element of dw[ky, kx, i, o] and part of the pixels.
extern "C" __global__ void conv2d_wgrad_f32_direct(const float *x, const float *dy, float *part, Conv c, unsigned pre, int share) {
    const int in_group = c.cin / c.groups, count = c.kh * c.kw * in_group * c.cout;
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int o = at % c.cout, i = o / (c.cout / c.groups) * in_group + at / c.cout % in_group, tap = at / c.cout / in_group;
    const int top = tap / c.kw * c.dilation - c.pad_top, left = tap % c.kw * c.dilation - c.pad_left;
    const int begin = blockIdx.z * share, end = min(begin + share, c.n * c.oh * c.ow);
    float sum = 0.0f;
    for (int p = begin; p < end; ++p) {
        const int iy = p / c.ow % c.oh * c.stride + top, ix = p % c.ow * c.stride + left;
        if (iy < 0 || iy >= c.h || ix < 0 || ix >= c.w) continue;
        const float value = activate(pre, x[((p / c.ow / c.oh * c.h + iy) * c.w + ix) * c.cin + i]);
        sum = fmaf(value, dy[p * c.cout + o], sum);
    }
    part[static_cast<size_t>(blockIdx.z) * count + at] = sum;
}

// A thread per element of dw; the parts in their order.
extern "C" __global__ void conv2d_wgrad_reduce_f32(const float *part, float *dw, unsigned count, unsigned parts) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    float sum = 0.0f;
    for (unsigned z = 0; z < parts; ++z) sum += part[static_cast<size_t>(z) * count + at];
    dw[at] = sum;
}

// Tiles of 32x32 of the matrices, 32x8 threads a block, matrices along z; the blocks of the last one fill the tail with zeros.
extern "C" __global__ void conv2d_pack_f32(const float *w, float *wt, unsigned rows, unsigned columns, unsigned matrices, unsigned count) {
    __shared__ PackTile tile;
    tile.load(w, rows, columns);
    __syncthreads();
    tile.store_transposed(wt, rows, columns);
    fill_tail(wt, matrices * rows * columns, count);
}

CONV2D_KERNELS(f32, Ffma)
