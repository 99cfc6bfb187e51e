/* buffer.h: counted storage on a device, shared by reference. */
#ifndef ML_TENSOR_BUFFER_H
#define ML_TENSOR_BUFFER_H

#include "tensor/device.h"

/* What a run failed with that was to write something. */
typedef struct ml_loss {
  int references;  /* below 0: of one for all, that nobody frees */
  bool told;       /* somebody knows of it */
  uint64_t number; /* of failed runs of the device */
  ml_status status;
  const char *text;
} ml_loss;

/* Of a status and its text; where there is no memory for it, one without. A new reference. */
ml_loss *ml_loss_create(ml_status status, const char *text);
ml_loss *ml_loss_retain(ml_loss *loss);
void ml_loss_release(ml_loss *loss); /* NULL is allowed */

typedef struct ml_buffer {
  int references;
  ml_device *device;
  void *address;
  size_t bytes;       /* asked for */
  size_t capacity;    /* held */
  bool reserved;      /* a reservation: counted by what is committed */
  bool of_state;      /* effects write it */
  bool fixed;         /* a plan knows its address, which stays */
  int flights;        /* of the references: those of runs that may not be done (queue.c) */
  size_t charged;     /* bytes counted as active */
  ml_loss *loss;      /* why what it holds means nothing; retained, or NULL */
  bool in_part;       /* appending to it has failed, so that the loss counts until somebody knows of it */
  atomic_int *owners; /* of storage that engines share: how many buffers of all have it; NULL: this one alone */
} ml_buffer;

/* ML_LIMIT when the device's limit would be passed even with an empty cache. */
ml_status ml_buffer_create(ml_device *device, size_t bytes, ml_buffer **out);
/* Address space for `bytes`, committed as it is written. */
ml_status ml_buffer_reserve(ml_device *device, size_t bytes, ml_buffer **out);
/* Brings the count of a reservation up to date: `bytes` of it are in use now; ML_LIMIT where so much may not count. */
ml_status ml_buffer_charge(ml_buffer *buffer, size_t bytes);
void ml_buffer_count(ml_buffer *buffer, size_t bytes); /* without asking */
/* Memory for `count` parts of a reservation, each of which begins `step` bytes behind the one before. */
ml_status ml_buffer_commit(ml_buffer *buffer, size_t step, size_t count, size_t bytes);
/* Makes *b, which the caller has kept since it was written, ready to be written anew, where it lies if that can be:
 * whoever else holds it finds its values elsewhere from now on. */
ml_status ml_buffer_renew(ml_buffer **b);
/* What it holds means nothing for this reason; NULL: it does again. */
void ml_buffer_set_loss(ml_buffer *buffer, ml_loss *loss);
/* Something that was to be appended to it may be missing. */
void ml_buffer_lose_part(ml_buffer *buffer, ml_loss *loss);
static inline ml_loss *ml_buffer_loss(const ml_buffer *b) {
  const bool told = b->loss && (b->loss->told || b->loss->number <= b->device->told);
  return b->in_part && told ? NULL : b->loss;
}
/* From now on other engines may have the same storage (share.h). */
ml_status ml_buffer_share(ml_buffer *buffer);
/* A buffer of this device with the storage of one that is shared; it counts there. */
ml_status ml_buffer_adopt(ml_device *device, const ml_buffer *shared, ml_buffer **out);
ml_buffer *ml_buffer_retain(ml_buffer *buffer);
void ml_buffer_release(ml_buffer *buffer); /* NULL is allowed */
/* What a lost buffer is lost to, as an error, which somebody knows of then. */
ml_status ml_buffer_check(ml_buffer *buffer);
/* Whether so many bytes more may count: ML_LIMIT where they would pass the limit even with an empty cache. */
ml_status ml_memory_check(ml_device *device, size_t bytes);
/* Returns cached memory to the device until at most `keep` bytes are cached. */
void ml_memory_trim(ml_device *device, size_t keep);
/* Whether what the device refused so is worth a second try: it had no memory, and has back now what runs and the cache
 * held. */
bool ml_memory_reclaim(ml_device *device, ml_status refused);

#endif
