/* images.h: compiled kernels, which the build embeds: of each .cu file the code for several kinds of GPU. Where there
 * is no nvcc there are none. */
#ifndef ML_GPU_IMAGES_H
#define ML_GPU_IMAGES_H

typedef struct ml_gpu_image {
  const char *name;  /* of the .cu file, without its ending */
  const void *bytes; /* a fat binary */
} ml_gpu_image;

extern const ml_gpu_image ml_gpu_images[]; /* up to one without a name */

#endif
