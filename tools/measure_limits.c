/* What this machine can do at best: memory read and copy rates, float32 multiply-adds, 8-bit and bfloat16 dot products.
 *
 *     measure_limits [THREADS [SECONDS [MB]]]  prints one JSON object; threads are all, seconds 0.25 a figure
 *
 * A benchmark quoted without its machine's limits of the same minute says little: figures of virtual machines move
 * by tens of percent in a day. Each figure is the best of five runs, since noise only ever slows a run down.
 *
 * With MB, the reads and copies alone are measured, over that many million bytes of all threads together; with 0,
 * the multiply-adds and bfloat16 dot products of all threads alone.
 *
 * Units: read_gb_s is 1e9 bytes read a second; copy_gb_s counts bytes read and bytes written. f32_gflop_s counts a
 * multiply-add as two operations, and so do int8_gop_s (unsigned by signed bytes into int32) and bf16_gflop_s; 0 means
 * no instruction for it. */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256
#define READ_BYTES ((size_t)128 << 20) // a thread; far beyond any cache it could claim
#define COPY_STEP ((size_t)32 << 10)   // bytes that memcpy is given at once
#define RUNS 5

typedef struct worker worker;

// Does a batch of work of a fixed size and returns that size: operations, or bytes for reads.
typedef double (*batch_fn)(worker *w);

struct worker {
  pthread_t thread;
  pthread_barrier_t *start;
  batch_fn batch;
  double seconds;       // how long to repeat the batch
  uint8_t *memory;      // READ_BYTES, huge pages where the system has them
  size_t bytes;         // of it that are read, or copied from its first half to its second
  double done, elapsed; // results of the run
  uint64_t sink;        // keeps the compiler from dropping the work
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define REPS 20000 // of the inner loop, a batch
#define CHAINS 12  // independent accumulators: more than latency times ports, within 16 registers
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

#if defined(__x86_64__)
#include <immintrin.h>

// The multiplicands come from memory that the compiler cannot see through, so that nothing folds.
static volatile float one_f = 1.0f, small_f = 1e-6f;
static volatile int ones_i = 0x01010101;

#define SUM(i) total += a##i;

__attribute__((target("avx2,fma"))) static double fma_avx2(worker *w) {
  __m256 x = _mm256_set1_ps(one_f), y = _mm256_set1_ps(small_f), total = _mm256_setzero_ps();
#define START(i) __m256 a##i = _mm256_set1_ps((float)i);
#define STEP(i) a##i = _mm256_fmadd_ps(x, y, a##i);
  EACH(START)
  for (int r = 0; r < REPS; r++) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm256_cvtss_f32(total);
  return 2.0 * 8 * CHAINS * REPS;
#undef START
#undef STEP
}

__attribute__((target("avx512f"))) static double fma_avx512(worker *w) {
  __m512 x = _mm512_set1_ps(one_f), y = _mm512_set1_ps(small_f), total = _mm512_setzero_ps();
#define START(i) __m512 a##i = _mm512_set1_ps((float)i);
#define STEP(i) a##i = _mm512_fmadd_ps(x, y, a##i);
  EACH(START)
  for (int r = 0; r < REPS; r++) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm512_cvtss_f32(total);
  return 2.0 * 16 * CHAINS * REPS;
#undef START
#undef STEP
}

// Without VNNI a byte product takes three instructions: pairs to int16, pairs to int32, add.
__attribute__((target("avx2"))) static double int8_avx2(worker *w) {
  __m256i x = _mm256_set1_epi32(ones_i), y = x, one = _mm256_set1_epi16((short)ones_i), total = _mm256_setzero_si256();
#define START(i) __m256i a##i = _mm256_set1_epi32(i);
#define STEP(i)                                                                                                        \
  __asm__ volatile("" : "+x"(x)); /* or the products would be made once */                                             \
  a##i = _mm256_add_epi32(a##i, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), one));
  EACH(START)
  for (int r = 0; r < REPS; r++) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm256_extract_epi64(total, 0);
  return 2.0 * 32 * CHAINS * REPS;
#undef START
#undef STEP
}

__attribute__((target("avx512f,avx512vnni"))) static double int8_avx512(worker *w) {
  __m512i x = _mm512_set1_epi32(ones_i), y = x, total = _mm512_setzero_si512();
#define START(i) __m512i a##i = _mm512_set1_epi32(i);
#define STEP(i) a##i = _mm512_dpbusd_epi32(a##i, x, y);
  EACH(START)
  for (int r = 0; r < REPS; r++) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm512_reduce_add_epi64(total);
  return 2.0 * 64 * CHAINS * REPS;
#undef START
#undef STEP
}

__attribute__((target("avx512f,avx512bf16"))) static double bf16_avx512(worker *w) {
  __m512bh x = (__m512bh)_mm512_set1_epi32(ones_i), y = x;
  __m512 total = _mm512_setzero_ps();
#define START(i) __m512 a##i = _mm512_set1_ps((float)i);
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, y);
  EACH(START)
  for (int r = 0; r < REPS; r++) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm512_cvtss_f32(total);
  return 2.0 * 32 * CHAINS * REPS;
#undef START
#undef STEP
}

__attribute__((target("avx2"))) static double read_avx2(worker *w) {
  __m256i total = _mm256_setzero_si256();
#define START(i) __m256i a##i = _mm256_setzero_si256();
#define STEP(i) a##i = _mm256_xor_si256(a##i, _mm256_load_si256((const __m256i *)(p + 32 * i)));
  EACH(START)
  size_t stride = 32 * CHAINS, n = w->bytes / stride;
  const uint8_t *p = w->memory;
  for (size_t r = 0; r < n; r++, p += stride) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm256_extract_epi64(total, 0);
  return (double)(n * stride);
#undef START
#undef STEP
}

__attribute__((target("avx512f"))) static double read_avx512(worker *w) {
  __m512i total = _mm512_setzero_si512();
#define START(i) __m512i a##i = _mm512_setzero_si512();
#define STEP(i) a##i = _mm512_xor_si512(a##i, _mm512_load_si512(p + 64 * i));
  EACH(START)
  size_t stride = 64 * CHAINS, n = w->bytes / stride;
  const uint8_t *p = w->memory;
  for (size_t r = 0; r < n; r++, p += stride) { EACH(STEP) }
  EACH(SUM)
  w->sink += (uint64_t)_mm512_reduce_add_epi64(total);
  return (double)(n * stride);
#undef START
#undef STEP
}
#endif

// Any machine: what its compiler makes of plain loops, so a lower bound of what it can do.
static double fma_plain(worker *w) {
  float a[64];
  for (int i = 0; i < 64; i++) a[i] = (float)i;
  volatile float seen = 1e-6f;
  float y = seen;
  for (int r = 0; r < REPS; r++) {
    for (int i = 0; i < 64; i++) a[i] = a[i] * y + y;
  }
  for (int i = 0; i < 64; i++) w->sink += (uint64_t)a[i];
  return 2.0 * 64 * REPS;
}

static double read_plain(worker *w) {
  const uint64_t *p = (const uint64_t *)(const void *)w->memory;
  uint64_t a[8] = {0};
  for (size_t i = 0; i + 8 <= w->bytes / 8; i += 8) {
    for (int k = 0; k < 8; k++) a[k] ^= p[i + (size_t)k];
  }
  for (int k = 0; k < 8; k++) w->sink += a[k];
  return (double)w->bytes;
}

// From one half to the other, by whatever way the C library thinks fastest.
static double copy(worker *w) {
  size_t half = w->bytes / 2;
  for (size_t i = 0; i < half; i += COPY_STEP) {
    size_t n = half - i < COPY_STEP ? half - i : COPY_STEP;
    memcpy(w->memory + half + i, w->memory + i, n);
  }
  w->sink += w->memory[half];
  return 2 * (double)half;
}

typedef struct {
  const char *isa;
  batch_fn read, fma, int8, bf16;
} kernels;

static kernels choose(void) {
  kernels k = {"plain", read_plain, fma_plain, NULL, NULL};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    k = (kernels){"avx2", read_avx2, fma_avx2, int8_avx2, NULL};
  }
  if (__builtin_cpu_supports("avx512f")) {
    k.isa = "avx512", k.read = read_avx512, k.fma = fma_avx512;
    if (__builtin_cpu_supports("avx512vnni")) k.int8 = int8_avx512;
    if (__builtin_cpu_supports("avx512bf16")) k.bf16 = bf16_avx512;
  }
#endif
  return k;
}

static void *work(void *arg) {
  worker *w = arg;
  pthread_barrier_wait(w->start);
  double begin = now();
  do {
    w->done += w->batch(w);
    w->elapsed = now() - begin;
  } while (w->elapsed < w->seconds);
  return NULL;
}

// Work a second of `threads` threads together, in units of 1e9: the best run. 0 without a batch.
static double rate(worker *workers, int threads, batch_fn batch, double seconds) {
  double best = 0;
  for (int run = 0; batch != NULL && run < RUNS; run++) {
    pthread_barrier_t start;
    if (pthread_barrier_init(&start, NULL, (unsigned)threads) != 0) return 0;
    for (int i = 0; i < threads; i++) {
      worker *w = &workers[i];
      w->start = &start, w->batch = batch, w->seconds = seconds, w->done = 0, w->elapsed = 0;
      if (pthread_create(&w->thread, NULL, work, w) != 0) {
        fprintf(stderr, "measure_limits: cannot start thread %d\n", i + 1);
        exit(1); // those that wait at the barrier go with us
      }
    }
    double sum = 0;
    for (int i = 0; i < threads; i++) {
      pthread_join(workers[i].thread, NULL);
      sum += workers[i].done / workers[i].elapsed * 1e-9;
    }
    pthread_barrier_destroy(&start);
    if (sum > best) best = sum;
  }
  return best;
}

static bool take_memory(worker *w) {
  void *p = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return false;
  (void)madvise(p, READ_BYTES, MADV_HUGEPAGE); // a wish
  memset(p, 0x5a, READ_BYTES);
  w->memory = p;
  w->bytes = READ_BYTES;
  return true;
}

static void print_rates(const char *name, worker *workers, int threads, const kernels *k, double seconds, bool last) {
  printf("  \"%s\": {\"threads\": %d, \"read_gb_s\": %.1f, ", name, threads, rate(workers, threads, k->read, seconds));
  printf("\"f32_gflop_s\": %.1f, ", rate(workers, threads, k->fma, seconds));
  printf("\"int8_gop_s\": %.1f, ", rate(workers, threads, k->int8, seconds));
  printf("\"bf16_gflop_s\": %.1f}%s\n", rate(workers, threads, k->bf16, seconds), last ? "" : ",");
}

static void print_memory(worker *workers, int threads, const kernels *k, double seconds, size_t bytes) {
  for (int i = 0; i < threads; i++) workers[i].bytes = bytes / (size_t)threads & ~(size_t)127;
  printf("{\"read_gb_s\": %.1f, ", rate(workers, threads, k->read, seconds));
  printf("\"copy_gb_s\": %.1f}\n", rate(workers, threads, copy, seconds));
}

static void print_arithmetic(worker *workers, int threads, const kernels *k, double seconds) {
  printf("{\"f32_gflop_s\": %.1f, ", rate(workers, threads, k->fma, seconds));
  printf("\"bf16_gflop_s\": %.1f}\n", rate(workers, threads, k->bf16, seconds));
}

int main(int argc, char **argv) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  long threads = argc > 1 ? strtol(argv[1], NULL, 10) : cores;
  double seconds = argc > 2 ? strtod(argv[2], NULL) : 0.25;
  size_t bytes = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) * 1000000 : 0;
  bool arithmetic = argc == 4 && strcmp(argv[3], "0") == 0;
  if (argc > 4 || (argc > 3 && bytes == 0 && !arithmetic) || bytes / 128 > READ_BYTES * (size_t)threads / 128 ||
      threads < 1 || threads > MAX_THREADS || !(seconds > 0 && seconds < 60)) {
    fprintf(stderr, "usage: measure_limits [THREADS (1..%d) [SECONDS [MB]]]\n", MAX_THREADS);
    return 2;
  }
  static worker workers[MAX_THREADS];
  kernels k = choose();
  if (arithmetic) {
    print_arithmetic(workers, (int)threads, &k, seconds);
    return 0;
  }
  for (long i = 0; i < threads; i++) {
    if (!take_memory(&workers[i])) {
      fprintf(stderr, "measure_limits: no memory\n");
      return 1;
    }
  }
  if (bytes) {
    print_memory(workers, (int)threads, &k, seconds, bytes);
    return 0;
  }
  printf("{\n  \"isa\": \"%s\",\n", k.isa);
  print_rates("one", workers, 1, &k, seconds, false);
  print_rates("all", workers, (int)threads, &k, seconds, true);
  printf("}\n");
  return 0;
}
