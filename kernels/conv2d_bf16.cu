// Convolution as implicit matrix products in bf16 of numbers stored in f32; formulas, shapes and layout in conv2d.cuh, where numbers are
// rounded and why in tiles.cuh.
//
//   conv2d_fprop_bf16_<tile>, conv2d_dgrad_bf16_<tile>, conv2d_wgrad_bf16_<tile>, with the arguments of conv2d.cu
//
// Limit: with 128x128 tiles a block takes 256 numbers of 4 bytes for 2 * 128 * 128 FLOPs, 32 FLOPs per byte from L1 and L2, which is
// reached before the tensor cores are. Taps of a window meet in L1 (x goes through registers): a 3x3 window takes most of its 9 reads
// there. Geometry: as conv2d_tf32.cu.

#include "conv2d.cuh"

CONV2D_KERNELS(bf16, Bf16)
