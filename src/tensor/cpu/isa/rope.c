/* rope.c: rotary position embedding. */
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/simd.h"

/* Angles are float32 products, as in the reference implementations that checkpoints were trained with. */
ml_status K(rope_table_prepare)(ml_task *t) {
  t->units = t->out[0].shape[0] * t->out[0].shape[1];
  t->grain = 4;
  t->cost = (double)t->units * (double)t->out[0].shape[2] * 20;
  return ML_OK;
}

void K(rope_table)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *positions = &t->in[0], *o = &t->out[0];
  const float *frequencies = (const float *)t->in[1].data, scale = (float)t->step->attrs->rope_table.scale;
  const int64_t n = t->in[1].shape[0];
  for (int64_t u = begin; u < end; u++) {
    const float position = (float)load_index(positions->data, positions->dtype, u);
    float *row = (float *)o->data + u * 2 * n;
    for (int64_t i = 0; i < n; i++) {
      float angle = position * frequencies[i];
      row[i] = cosf(angle) * scale;
      row[n + i] = sinf(angle) * scale;
    }
  }
}

ml_status K(rope_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  t->units = x->shape[0] * x->shape[2] * x->shape[1];
  t->grain = ml_max64(1, 4096 / ml_max64(1, x->shape[3]));
  t->scratch = x->dtype == ML_F32 ? 0 : 2 * (size_t)x->shape[3] * sizeof(float);
  t->cost = (double)t->units * (double)x->shape[3] * 0.4 + 20;
  return ML_OK;
}

/* Turns 2 n of the d entries of p into q; cs: n cosines, then n sines. */
static void turn(const float *p, const float *cs, int64_t n, int64_t d, bool interleaved, float *q) {
  const float *sn = cs + n;
  if (interleaved) {
    for (int64_t i = 0; i < n; i++) {
      float a = p[2 * i], c = p[2 * i + 1];
      q[2 * i] = a * cs[i] - c * sn[i];
      q[2 * i + 1] = c * cs[i] + a * sn[i];
    }
  } else {
    for (int64_t i = 0; i < n; i++) q[i] = p[i] * cs[i] - p[n + i] * sn[i];
    for (int64_t i = 0; i < n; i++) q[n + i] = p[n + i] * cs[i] + p[i] * sn[i];
  }
  for (int64_t i = 2 * n; i < d; i++) q[i] = p[i];
}

void K(rope)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  const int64_t H = x->shape[1], T = x->shape[2], d = x->shape[3], n = t->in[1].shape[2] / 2;
  const int item = ml_dtype_infos[x->dtype].bytes;
  const bool interleaved = t->step->attrs->rope.interleaved != 0, direct = x->dtype == ML_F32;
  float *room = (float *)(void *)w->scratch, *turned = room + d;
  for (int64_t u = begin; u < end; u++) {
    int64_t b = u / (H * T), pos = u / H % T, h = u % H;
    const float *cs = (const float *)t->in[1].data + b * t->in[1].strides[0] + pos * t->in[1].strides[1];
    const char *from = x->data + (b * x->strides[0] + h * x->strides[1] + pos * x->strides[2]) * item;
    char *to = o->data + (b * o->strides[0] + h * o->strides[1] + pos * o->strides[2]) * item;
    turn(read_tile(room, from, x->dtype, 1, (int)d), cs, n, d, interleaved, direct ? (float *)(void *)to : turned);
    if (!direct) K(store_tile)(to, o->dtype, 1, turned, (int)d);
  }
}
