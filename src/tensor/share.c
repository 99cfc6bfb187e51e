/* share.c: what is published, in one list for the process. */
#include "tensor/share.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A tensor without its engine: `buffer` is the publisher's, and only what stays as it is may be read of it. */
typedef struct item {
  char *name;
  ml_buffer *buffer;
  size_t offset;
  ml_dtype dtype;
  ml_layout layout;
  bool exact;
  int ndim;
  int64_t shape[ML_MAX_DIMS], strides[ML_MAX_DIMS];
} item;

typedef struct publication {
  struct publication *next;
  char token[ML_TOKEN_BYTES], device[32];
  int group;
  char *about;
  item *items;
  size_t n;
} publication;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static publication *all;
static uint64_t count;

/* By the publisher's thread, when nobody finds it any more. */
static void free_publication(publication *p) {
  for (size_t i = 0; i < p->n; i++) {
    ml_free(p->items[i].name);
    ml_buffer_release(p->items[i].buffer);
  }
  ml_free(p->items);
  ml_free(p->about);
  ml_free(p);
}

static ml_status copy_text(const char *text, char **out) {
  const size_t bytes = strlen(text) + 1;
  if (!(*out = ml_alloc(bytes))) return ML_MEMORY;
  memcpy(*out, text, bytes);
  return ML_OK;
}

static ml_status add_item(publication *p, const ml_tensor *t, const char *name) {
  item *i = &p->items[p->n];
  if (!t->buffer || t->state) return ml_fail(ML_USAGE, "%s: a weight with storage is shared, and no state", name);
  if (strcmp(t->device->name, p->device) != 0)
    return ml_fail(ML_MISMATCH, "%s lies on %s, others on %s", name, t->device->name, p->device);
  ML_TRY(ml_buffer_share(t->buffer));
  ML_TRY(copy_text(name, &i->name));
  i->buffer = ml_buffer_retain(t->buffer);
  i->offset = t->offset, i->dtype = t->dtype, i->layout = t->layout, i->exact = t->exact, i->ndim = t->ndim;
  memcpy(i->shape, t->shape, sizeof i->shape);
  memcpy(i->strides, t->strides, sizeof i->strides);
  p->n++;
  return ML_OK;
}

static ml_status fill(publication *p, const char *about, ml_tensor *const *tensors, const char *const *names,
                      size_t n) {
  if (!n) return ml_fail(ML_USAGE, "there is nothing to share");
  const ml_device *d = tensors[0]->device;
  if (!d->common) return ml_fail(ML_UNSUPPORTED, "other engines do not reach the memory of %s", d->name);
  snprintf(p->device, sizeof p->device, "%s", d->name);
  p->group = d->group;
  ML_TRY(copy_text(about, &p->about));
  if (!(p->items = ml_calloc(n, sizeof *p->items))) return ML_MEMORY;
  for (size_t i = 0; i < n; i++) ML_TRY(add_item(p, tensors[i], names[i]));
  return ML_OK;
}

ml_status ml_share_publish(const char *about, ml_tensor *const *tensors, const char *const *names, size_t n,
                           char token[ML_TOKEN_BYTES]) {
  publication *p = ml_calloc(1, sizeof *p);
  if (!p) return ML_MEMORY;
  ml_status status = fill(p, about, tensors, names, n);
  if (status != ML_OK) {
    free_publication(p);
    return status;
  }
  pthread_mutex_lock(&lock);
  snprintf(p->token, sizeof p->token, "weights %ld.%llu", (long)getpid(), (unsigned long long)++count);
  p->next = all;
  all = p;
  pthread_mutex_unlock(&lock);
  memcpy(token, p->token, ML_TOKEN_BYTES);
  return ML_OK;
}

void ml_share_withdraw(const char *token) {
  publication *found = NULL;
  pthread_mutex_lock(&lock);
  for (publication **link = &all; *link && !found; link = &(*link)->next) {
    if (strcmp((*link)->token, token) != 0) continue;
    found = *link;
    *link = found->next;
    break;
  }
  pthread_mutex_unlock(&lock);
  if (found) free_publication(found);
}

/* With the lock held. */
static ml_status find(const char *token, publication **out) {
  for (publication *p = all; p; p = p->next) {
    if (strcmp(p->token, token) != 0) continue;
    *out = p;
    return ML_OK;
  }
  return ml_fail(ML_NOT_FOUND, "share: \"%s\": no open model of this process gave this token", token);
}

ml_status ml_share_about(const char *token, char **out) {
  publication *p = NULL;
  pthread_mutex_lock(&lock);
  ml_status status = find(token, &p);
  if (status == ML_OK) status = copy_text(p->about, out);
  pthread_mutex_unlock(&lock);
  return status;
}

static ml_status take(const item *i, ml_device *d, ml_tensor **out) {
  ml_buffer *buffer;
  ML_TRY(ml_buffer_adopt(d, i->buffer, &buffer));
  ml_status status = ml_tensor_wrap(buffer, i->offset, i->dtype, i->layout, i->ndim, i->shape, out);
  ml_buffer_release(buffer);
  if (status != ML_OK) return status;
  memcpy((*out)->strides, i->strides, sizeof i->strides);
  (*out)->exact = i->exact;
  return ML_OK;
}

static ml_status take_from(const publication *p, ml_device *d, const char *name, ml_tensor **out) {
  if (strcmp(p->device, d->name) != 0 || p->group != d->group)
    return ml_fail(ML_MISMATCH, "share: the weights lie on %s, the model on %s", p->device, d->name);
  for (size_t i = 0; i < p->n; i++) {
    if (strcmp(p->items[i].name, name) == 0) return take(&p->items[i], d, out);
  }
  return ml_fail(ML_NOT_FOUND, "share: there is no weight \"%s\"", name);
}

ml_status ml_share_take(ml_device *device, const char *token, const char *name, ml_tensor **out) {
  publication *p = NULL;
  pthread_mutex_lock(&lock);
  ml_status status = find(token, &p);
  if (status == ML_OK) status = take_from(p, device, name, out);
  pthread_mutex_unlock(&lock);
  return status;
}
