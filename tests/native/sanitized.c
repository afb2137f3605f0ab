// The inner functions of one kernel, which `KERNEL` names, on random sizes and buffers of exactly
// the size they need: `test_sanitized.py` compiles this so that any access outside them ends it.

// Nothing is registered: the functions that call TensorFlow are left out as unused.
#define constructor unused
#include KERNEL

#include <stdio.h>

enum { TRIALS = 10000, SIDE = 60, SIZE = 40, CHANNELS = 5 };

static uint32_t state = 1;

static int between(int low, int high) {
  state = state * 1664525u + 1013904223u;
  return low + (int)((state >> 8) % (uint32_t)(high - low + 1));
}

static uint8_t* random_bytes(size_t count) {
  uint8_t* bytes = malloc(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = (uint8_t)between(0, 255);
  return bytes;
}

static void check(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s\n", what);
  exit(1);
}

#ifdef CROP

// As `crop` calls it for rows too long for floats.
static void crop_sparsely(const uint8_t* image, int width, int channels, const int32_t* corners,
                          int size, uint8_t* out) {
  const size_t stride = (size_t)width * channels;
  const Box box = {.bytes = image + corners[0] * stride + (size_t)corners[1] * channels,
                   .stride = stride,
                   .height = corners[2],
                   .count = corners[3] * channels};
  Taps *rows = malloc(size * sizeof(Taps)), *columns = malloc(size * sizeof(Taps));
  find_taps(corners[2], size, rows);
  find_taps(corners[3], size, columns);
  resize_sparsely(&box, corners[3], channels, size, rows, columns, out);
  free(rows);
  free(columns);
}

static void try_crop(int height, int width, int channels, const int32_t* corners, int size) {
  const size_t row = (size_t)size * channels, bytes = size * row;
  uint8_t *image = random_bytes((size_t)height * width * channels), *out = malloc(bytes);
  uint8_t *mirrored = malloc(bytes), *sparse = malloc(bytes);
  check(crop(image, width, channels, corners, false, size, out), "no memory");
  check(crop(image, width, channels, corners, true, size, mirrored), "no memory");
  crop_sparsely(image, width, channels, corners, size, sparse);
  check(!memcmp(out, sparse, bytes), "not the same without rows in memory");
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      check(!memcmp(out + y * row + x * channels, mirrored + y * row + (size - 1 - x) * channels,
                    channels),
            "not mirrored");
  free(image);
  free(out);
  free(mirrored);
  free(sparse);
}

int main(void) {
  for (int trial = 0; trial < TRIALS; ++trial) {
    const int height = between(1, SIDE), width = between(1, SIDE);
    const int tall = between(1, height), wide = between(1, width);
    const int32_t corners[] = {between(0, height - tall), between(0, width - wide), tall, wide};
    try_crop(height, width, between(1, CHANNELS), corners, between(1, SIZE));
  }
  for (int channels = 1; channels <= CHANNELS; ++channels)
    for (int beyond = 0; beyond <= 1; ++beyond) {
      const int width = LONG / channels + beyond;
      const int32_t corners[] = {0, 0, 3, width};
      try_crop(3, width, channels, corners, between(1, SIZE));
    }
  return 0;
}

#else

static bool all_zero(const float* values, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (values[i] != 0.0f) return false;
  return true;
}

// What lies around the planes must stay black from view to view.
static bool margins_are_black(const Work* work) {
  const size_t margin = (size_t)work->radius * work->width;
  for (int c = 0; c <= work->channels; ++c)
    if (!all_zero(work->planes + c * work->stride - margin, margin)) return false;
  return all_zero(work->line - work->radius, work->radius) &&
         all_zero(work->line + work->width, work->radius);
}

static float one_of(float at_rest, float low, float high) {
  return between(0, 3) ? low + (high - low) * (float)between(0, 1000) / 1000.0f : at_rest;
}

static void try_finish(Work work) {
  const size_t values = work.pixels * work.channels;
  void* memory = allocate(&work);
  check(memory, "no memory");
  for (int view = 0; view < 3; ++view) {
    const Factors factors = {one_of(1, 0, 3), one_of(1, 0, 3), one_of(1, 0, 3), one_of(0, -1, 1),
                             one_of(0, 0, 12)};
    Choices choices = {between(0, 1), {0, 1, 2, 3}};
    for (int i = JITTERS - 1; i > 0; --i) {
      const int j = between(0, i), kept = choices.operations[i];
      choices.operations[i] = choices.operations[j];
      choices.operations[j] = kept;
    }
    uint8_t* image = random_bytes(values);
    float* out = malloc(values * sizeof(float));
    for (size_t i = 0; i < values; ++i) out[i] = NAN;
    finish(&work, image, &factors, &choices, out);
    for (size_t i = 0; i < values; ++i)
      check(out[i] >= 0.0f && out[i] <= 1.00001f, "a value not written or not in [0, 1]");
    check(margins_are_black(&work), "a margin is not black");
    free(image);
    free(out);
  }
  free(memory);
}

int main(void) {
  for (int trial = 0; trial < TRIALS; ++trial) {
    Work work = {.height = between(1, SIDE), .width = between(1, SIDE)};
    work.channels = between(1, CHANNELS);
    work.radius = work.height / 10 / 2;
    if (trial % 4 == 0) work.radius = between(0, 12);  // Also more than the view is wide or high.
    work.pixels = (size_t)work.height * work.width;
    try_finish(work);
  }
  return 0;
}

#endif
