// Convolution as implicit matrix products in tf32; formulas, shapes and layout in conv2d.cuh, the pipeline in tiles.cuh.
//
//   conv2d_fprop_tf32_<tile>, conv2d_dgrad_tf32_<tile>, conv2d_wgrad_tf32_<tile>, with the arguments of conv2d.cu
//
// Limit: 2 n oh ow kh kw cin cout FLOPs of tensor cores; below about 100 FLOPs per byte (1x1 with few channels) the bytes of x and y.
// Geometry: a block per tile, tiles that share pixels side by side along x; phases of dgrad and parts of wgrad along z.

#include "conv2d.cuh"

CONV2D_KERNELS(tf32, Tf32)
