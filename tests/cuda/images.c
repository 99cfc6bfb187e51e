/* images.c: a table of kernels for the driver of driver.cpp, which finds them by their names alone. */
#include "gpu/images.h"

#define IMAGE(name)                                                                                                    \
  { #name, #name }
const ml_gpu_image ml_gpu_images[] = {IMAGE(attention),
                                      IMAGE(attention_many),
                                      IMAGE(attention_one),
                                      IMAGE(elementwise),
                                      IMAGE(embedding),
                                      IMAGE(experts),
                                      IMAGE(few),
                                      IMAGE(heads),
                                      IMAGE(index),
                                      IMAGE(linears),
                                      IMAGE(linears_affine),
                                      IMAGE(linears_blocks),
                                      IMAGE(linears_k),
                                      IMAGE(many),
                                      IMAGE(many_affine),
                                      IMAGE(many_blocks),
                                      IMAGE(many_k),
                                      IMAGE(matmul),
                                      IMAGE(norm),
                                      IMAGE(random),
                                      IMAGE(reduce),
                                      IMAGE(rows),
                                      IMAGE(sample),
                                      IMAGE(tiles),
                                      IMAGE(tiles_affine),
                                      IMAGE(tiles_blocks),
                                      IMAGE(wide),
                                      {0, 0}};
