// y[n, h, w, c] = sum_{r, s} x[n, h + r - 2, w + s - 2, c] f[r, s, c]: depthwise 5x5 convolution, NHWC, zero padding.
//
// Limit: memory, 8 bytes per element once. A block makes 8x8 pixels of 16 channels of one image from a 12x12x16 tile with
// halo in shared memory. Block: (16, 8). Grid: (ceil(c/16), ceil(w/8) * ceil(h/8), n).

#define PIXELS 8
#define HALO 2
#define SIDE (PIXELS + 2 * HALO)
#define CHANNELS 16

struct Shape {
    int n, h, w, c;
};

extern "C" __global__ void __launch_bounds__(128) depthwise_f32(const float *x, const float *f, float *y, Shape shape) {
    __shared__ float tile[SIDE][SIDE][CHANNELS];
    __shared__ float filter[25][CHANNELS];
    const int tiles_w = (shape.w + PIXELS - 1) / PIXELS;
    const int h0 = blockIdx.y / tiles_w * PIXELS, w0 = blockIdx.y % tiles_w * PIXELS;
    const int c0 = blockIdx.x * CHANNELS, n = blockIdx.z;
    const int channel = threadIdx.x, c = c0 + channel;
    for (int i = threadIdx.y; i < SIDE * SIDE; i += blockDim.y) {
        const int h = h0 + i / SIDE - HALO, w = w0 + i % SIDE - HALO;
        float value = 0.0f;
        if (c < shape.c && h >= 0 && h < shape.h && w >= 0 && w < shape.w)
            value = x[((n * shape.h + h) * shape.w + w) * shape.c + c];
        tile[i / SIDE][i % SIDE][channel] = value;
    }
    for (int i = threadIdx.y; i < 25; i += blockDim.y) filter[i][channel] = c < shape.c ? f[i * shape.c + c] : 0.0f;
    __syncthreads();
    if (c >= shape.c) return;
    for (int i = threadIdx.y; i < PIXELS * PIXELS; i += blockDim.y) {
        const int h = i / PIXELS, w = i % PIXELS;
        if (h0 + h >= shape.h || w0 + w >= shape.w) continue;
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < 5; ++r)
#pragma unroll
            for (int s = 0; s < 5; ++s) sum = fmaf(tile[h + r][w + s][channel], filter[r * 5 + s][channel], sum);
        y[((n * shape.h + h0 + h) * shape.w + w0 + w) * shape.c + c] = sum;
    }
}
