// Functions that are called, not inlined: scalars, structures, pointers to locals, recursion, divergent calls, barriers in
// functions, and the functions that NVRTC itself calls. Block: 64 threads.

struct Triple {
    float a;
    int b;
    double c;
};

__device__ __noinline__ Triple turn(Triple t, int by) {
    Triple out;
    out.a = t.a * 2.0f + by;
    out.b = t.b - by;
    out.c = t.c + t.a;
    return out;
}

__device__ __noinline__ float polynomial(const float *coefficients, int n, float x) {
    float y = 0.0f;
    for (int i = n - 1; i >= 0; --i) y = fmaf(y, x, coefficients[i]);
    return y;
}

// A table of its own in local memory, filled in an order that depends on the argument.
__device__ __noinline__ int scrambled(int seed) {
    int table[16];
    for (int i = 0; i < 16; ++i) table[(i * 7 + seed) & 15] = i * i + seed;
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum = sum * 3 + table[(i + seed * 5) & 15];
    return sum;
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__device__ int odd(int n);
__device__ __noinline__ int even(int n) { return n == 0 ? 1 : odd(n - 1); }
__device__ __noinline__ int odd(int n) { return n == 0 ? 0 : even(n - 1); }

__device__ __noinline__ void share(int *tile, int value) {
    tile[threadIdx.x] = value;
    __syncthreads();
}

extern "C" __global__ void structures(const float *x, float *a, int *b, double *c) {
    const int i = threadIdx.x;
    Triple t = {x[i], i, 0.5};
    for (int k = 0; k < 3; ++k) t = turn(t, k + 1);
    a[i] = t.a;
    b[i] = t.b;
    c[i] = t.c;
}

extern "C" __global__ void pointers(const float *x, float *y, int n) {
    float coefficients[8];
    for (int k = 0; k < n; ++k) coefficients[(k * 3) & 7] = x[(threadIdx.x + k) & 63];
    y[threadIdx.x] = polynomial(coefficients, 8, 0.5f);
}

extern "C" __global__ void recursion(int *y) { y[threadIdx.x] = fibonacci(threadIdx.x % 11); }

extern "C" __global__ void mutual(int *y) { y[threadIdx.x] = even(threadIdx.x) + 2 * odd(threadIdx.x); }

extern "C" __global__ void divergent(const float *x, int *y) {
    const int i = threadIdx.x;
    int value = 0;
    if (x[i] > 0.0f) value = scrambled(i);
    else if (i % 3 == 0) value = -scrambled(i + 1);
    for (int k = 0; k < i % 4; ++k) value += scrambled(value & 15);
    y[i] = value;
}

extern "C" __global__ void barriers(int *y) {
    __shared__ int tile[64];
    share(tile, threadIdx.x * 5);
    const int other = tile[63 - threadIdx.x];
    __syncthreads();
    share(tile, other + 1);
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

extern "C" __global__ void powers(const double *x, double *y) { y[threadIdx.x] = pow(x[threadIdx.x], 1.0 + threadIdx.x * 0.25); }

// Does not end.
__device__ __noinline__ int endless(int n) { return n == 1 << 30 ? 0 : 1 + endless(n + 1) * 3; }
extern "C" __global__ void overflows(int *y) { y[threadIdx.x] = endless(threadIdx.x); }
