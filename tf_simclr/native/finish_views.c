// TfSimclr>FinishViews: applies colour jitter, grayscale and blur to each view, as drawn for it.
//
// The operations are those of `tf_simclr/augment`. A view is split into one plane per channel,
// which stay in the cache until the view is done; operations that would change nothing are skipped.

#include "kernel.h"

enum { BRIGHTNESS, CONTRAST, SATURATION, HUE };  // Numbered as in `augment/color.py`.
enum { LANES = 32, JITTERS = 4, BLOCK = 32, ALIGNMENT = 64 };

typedef struct {
  float brightness, contrast, saturation, hue, sigma;
} Factors;

typedef struct {
  int32_t grayscale, operations[JITTERS];
} Choices;

// Buffers for one view at a time. Planes and line have a margin of zeros, `radius` wide, for the
// blur.
typedef struct {
  int height, width, channels, radius;
  size_t pixels, stride;  // Pixels in a plane; floats from one plane to the next.
  float* planes;          // [channels, height * width]
  float* rows;            // [channels, width]: one blurred row.
  float* line;            // [width]
  float* taps;            // [radius + 1]
} Work;

static inline float minimum(float a, float b) { return a < b ? a : b; }
static inline float maximum(float a, float b) { return a > b ? a : b; }
static inline float unit(float x) { return minimum(maximum(x, 0.0f), 1.0f); }

// --- between [height, width, channels] and planes ---

static inline void split_row(const uint8_t* restrict row, int channels, int width, size_t stride,
                             float* restrict plane) {
  for (int x = 0; x < width; ++x)
    for (int c = 0; c < channels; ++c)
      plane[c * stride + x] = (float)row[x * channels + c] * (1.0f / 255.0f);
}

static inline void join_row(const float* restrict plane, int channels, size_t width, size_t stride,
                            float* restrict row) {
  for (size_t x = 0; x < width; ++x)
    for (int c = 0; c < channels; ++c) row[x * channels + c] = plane[c * stride + x];
}

static void split(const Work* work, const uint8_t* image) {
  const int width = work->width, channels = work->channels;
  for (int y = 0; y < work->height; ++y, image += (size_t)width * channels) {
    float* plane = work->planes + (size_t)y * width;
    // With a constant number of channels the compiler unrolls and vectorises the loop.
    if (channels == 3) split_row(image, 3, width, work->stride, plane);
    else split_row(image, channels, width, work->stride, plane);
  }
}

static void join(const float* planes, size_t stride, size_t count, int channels, float* out) {
  if (channels == 3) join_row(planes, 3, count, stride, out);
  else join_row(planes, channels, count, stride, out);
}

// --- colours ---

static void brighten(float* restrict plane, size_t pixels, float factor) {
  for (size_t i = 0; i < pixels; ++i) plane[i] = unit(plane[i] * factor);
}

static float mean(const float* plane, size_t pixels) {
  float sums[LANES] = {0};  // Fixes the order of additions on every machine.
  size_t i = 0;
  for (; i + LANES <= pixels; i += LANES)
    for (int lane = 0; lane < LANES; ++lane) sums[lane] += plane[i + lane];
  double sum = 0.0;
  for (; i < pixels; ++i) sum += plane[i];
  for (int lane = 0; lane < LANES; ++lane) sum += sums[lane];
  return (float)(sum / (double)pixels);
}

static void contrast(float* restrict plane, size_t pixels, float factor) {
  const float centre = (1.0f - factor) * mean(plane, pixels);
  for (size_t i = 0; i < pixels; ++i) plane[i] = unit(plane[i] * factor + centre);
}

static void saturate(float* restrict r, float* restrict g, float* restrict b, size_t pixels,
                     float factor) {
  for (size_t i = 0; i < pixels; ++i) {
    const float value = maximum(r[i], maximum(g[i], b[i]));
    const float chroma = value - minimum(r[i], minimum(g[i], b[i]));
    const float most = chroma > 0.0f ? value / chroma : 1.0f;  // S <= 1.
    const float gain = minimum(factor, most);
    r[i] = unit(value + (r[i] - value) * gain);
    g[i] = unit(value + (g[i] - value) * gain);
    b[i] = unit(value + (b[i] - value) * gain);
  }
}

// f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + hue in sixths of a turn) mod 6.
static inline float turned(float sixths, float n, float value, float chroma) {
  float k = sixths + n;
  k -= 6.0f * floorf(k * (1.0f / 6.0f));
  return value - chroma * unit(minimum(k, 4.0f - k));
}

static void turn(float* restrict red, float* restrict green, float* restrict blue, size_t pixels,
                 float delta) {
  for (size_t i = 0; i < pixels; ++i) {
    const float r = red[i], g = green[i], b = blue[i];
    const float value = maximum(r, maximum(g, b));
    const float chroma = value - minimum(r, minimum(g, b));
    const float scale = chroma > 0.0f ? 1.0f / chroma : 0.0f;
    const float of_red = (g - b) * scale;
    const float of_green = 2.0f + (b - r) * scale;
    const float of_blue = 4.0f + (r - g) * scale;
    const float largest_of_two = g >= b ? of_green : of_blue;
    const float sixths = (r >= maximum(g, b) ? of_red : largest_of_two) + 6.0f * delta;
    red[i] = turned(sixths, 5.0f, value, chroma);
    green[i] = turned(sixths, 3.0f, value, chroma);
    blue[i] = turned(sixths, 1.0f, value, chroma);
  }
}

static void jitter(const Work* work, const Factors* factors, const int32_t* operations) {
  const size_t n = work->pixels, stride = work->stride;
  float *r = work->planes, *g = r + stride, *b = g + stride;  // g and b need three channels.
  for (int position = 0; position < JITTERS; ++position) {
    const int operation = operations[position];
    if (operation == BRIGHTNESS && factors->brightness != 1.0f)
      for (int c = 0; c < work->channels; ++c) brighten(r + c * stride, n, factors->brightness);
    else if (operation == CONTRAST && factors->contrast != 1.0f)
      for (int c = 0; c < work->channels; ++c) contrast(r + c * stride, n, factors->contrast);
    else if (operation == SATURATION && factors->saturation != 1.0f && work->channels == 3)
      saturate(r, g, b, n, factors->saturation);
    else if (operation == HUE && factors->hue != 0.0f && work->channels == 3)
      turn(r, g, b, n, factors->hue);
  }
}

static void to_gray(float* restrict r, float* restrict g, float* restrict b, size_t pixels) {
  for (size_t i = 0; i < pixels; ++i)
    r[i] = g[i] = b[i] = (0.2989f * r[i] + 0.5870f * g[i]) + 0.1140f * b[i];
}

// --- blur ---

// Fills `taps` and returns how many of them to use on each side: those within five sigmas. The
// others together weigh less than 1e-6.
static int find_taps(float sigma, int radius, float* taps) {
  double sum = 1.0;
  taps[0] = 1.0f;
  for (int k = 1; k <= radius; ++k) {
    taps[k] = expf(-0.5f * (k / sigma) * (k / sigma));
    sum += 2.0 * taps[k];
  }
  for (int k = 0; k <= radius; ++k) taps[k] = (float)(taps[k] / sum);
  return (int)minimum(ceilf(5.0f * sigma), (float)radius);
}

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
typedef float Floats __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float))));

enum { SUMS = BLOCK / WIDTH };

// Weighted sums over BLOCK values and their neighbours at distances k * step, kept in registers.
static inline void weigh_block(const float* values, ptrdiff_t step, const float* taps, int reach,
                               float* restrict out) {
  Floats sums[SUMS];
  for (int i = 0; i < SUMS; ++i) sums[i] = taps[0] * *(const Floats*)(values + i * WIDTH);
  for (int k = 1; k <= reach; ++k) {
    const float *before = values - k * step, *after = values + k * step;
    for (int i = 0; i < SUMS; ++i, before += WIDTH, after += WIDTH)
      sums[i] += taps[k] * (*(const Floats*)before + *(const Floats*)after);
  }
  for (int i = 0; i < SUMS; ++i) *(Floats*)(out + i * WIDTH) = sums[i];
}

static void weigh(const float* values, ptrdiff_t step, const float* taps, int reach, int width,
                  float* restrict out) {
  for (int x = 0; x + BLOCK <= width; x += BLOCK)
    weigh_block(values + x, step, taps, reach, out + x);
  if (width >= BLOCK) {  // The rest: a last block that overlaps the one before.
    const int x = width - BLOCK;
    if (width % BLOCK) weigh_block(values + x, step, taps, reach, out + x);
    return;
  }
  for (int x = 0; x < width; ++x) {
    const float* v = values + x;
    float sum = taps[0] * v[0];
    for (int k = 1; k <= reach; ++k) sum += taps[k] * (v[-k * step] + v[k * step]);
    out[x] = sum;
  }
}

// Works row by row, so that the result of the vertical pass stays in the cache for the horizontal.
static void blur_and_join(const Work* work, float sigma, float* out) {
  const int width = work->width, channels = work->channels;
  const int reach = find_taps(sigma, work->radius, work->taps);
  for (int y = 0; y < work->height; ++y, out += (size_t)width * channels) {
    for (int c = 0; c < channels; ++c) {
      const float* row = work->planes + c * work->stride + (size_t)y * width;
      weigh(row, width, work->taps, reach, width, work->line);
      weigh(work->line, 1, work->taps, reach, width, work->rows + (size_t)c * width);
    }
    join(work->rows, width, width, channels, out);
  }
}

// --- the operation ---

static void finish(const Work* work, const uint8_t* image, const Factors* factors,
                   const Choices* choices, float* out) {
  split(work, image);
  jitter(work, factors, choices->operations);
  float* r = work->planes;
  if (choices->grayscale && work->channels == 3)
    to_gray(r, r + work->stride, r + 2 * work->stride, work->pixels);
  if (factors->sigma > 0.0f && work->radius > 0) blur_and_join(work, factors->sigma, out);
  else join(work->planes, work->stride, work->pixels, work->channels, out);
}

// Returns the memory to free, or NULL if it cannot be allocated.
static void* allocate(Work* work) {
  const size_t margin = (size_t)work->radius * work->width;
  work->stride = work->pixels + margin;  // Adjacent planes share a margin.
  const size_t planes = work->channels * work->stride + margin;
  const size_t rows = (size_t)work->channels * work->width, line = work->width + 2 * work->radius;
  const size_t bytes = (planes + rows + line + work->radius + 1) * sizeof(float);
  void* memory = NULL;
  if (posix_memalign(&memory, ALIGNMENT, bytes)) return NULL;
  memset(memory, 0, bytes);
  work->planes = (float*)memory + margin;
  work->rows = (float*)memory + planes;
  work->line = work->rows + rows + work->radius;
  work->taps = work->rows + rows + line;
  return memory;
}

// Whether a tensor has the shape [pairs, 2, values].
static bool is_drawn(TF_Tensor* tensor, int64_t pairs, int64_t values) {
  return TF_NumDims(tensor) == 3 && TF_Dim(tensor, 0) == pairs && TF_Dim(tensor, 1) == 2 &&
         TF_Dim(tensor, 2) == values;
}

static bool fit(TF_Tensor* images, TF_Tensor* factors, TF_Tensor* choices) {
  if (TF_NumDims(images) != 5 || TF_Dim(images, 1) != 2) return false;
  const int64_t pairs = TF_Dim(images, 0);
  return is_drawn(factors, pairs, sizeof(Factors) / sizeof(float)) &&
         is_drawn(choices, pairs, sizeof(Choices) / sizeof(int32_t));
}

static void compute(void* kernel, TF_OpKernelContext* context) {
  (void)kernel;
  TF_Status* status = TF_NewStatus();
  TF_Tensor *images = NULL, *factors = NULL, *choices = NULL, *views = NULL;
  TF_GetInput(context, 0, &images, status);
  TF_GetInput(context, 1, &factors, status);
  TF_GetInput(context, 2, &choices, status);
  if (!fit(images, factors, choices)) {
    fail(context, TF_INVALID_ARGUMENT,
         "FinishViews needs images [B, 2, H, W, C], factors [B, 2, 5], choices [B, 2, 5].");
    goto done;
  }
  const int64_t pairs = TF_Dim(images, 0), height = TF_Dim(images, 2), width = TF_Dim(images, 3);
  const int64_t channels = TF_Dim(images, 4), values = height * width * channels;
  const int64_t shape[] = {2 * pairs, height, width, channels};
  const size_t bytes = (size_t)(2 * pairs * values) * sizeof(float);
  views = TF_AllocateOutput(context, 0, TF_FLOAT, shape, 4, bytes, status);
  if (TF_GetCode(status) != TF_OK) {
    TF_OpKernelContext_Failure(context, status);
    goto done;
  }
  Work work = {.height = (int)height,
               .width = (int)width,
               .channels = (int)channels,
               .radius = (int)(height / 10) / 2,
               .pixels = (size_t)(height * width)};
  void* memory = allocate(&work);
  if (!memory) {
    fail(context, TF_RESOURCE_EXHAUSTED, "FinishViews: no memory for a view.");
    goto done;
  }
  const uint8_t* image = TF_TensorData(images);
  const Factors* factor = TF_TensorData(factors);
  const Choices* choice = TF_TensorData(choices);
  float* out = TF_TensorData(views);
  for (int64_t i = 0; i < 2 * pairs; ++i) {
    const int64_t place = i / 2 + (i % 2) * pairs;  // All first views, then all second views.
    finish(&work, image + i * values, factor + i, choice + i, out + place * values);
  }
  free(memory);
done:
  if (views) TF_DeleteTensor(views);
  TF_DeleteTensor(choices);
  TF_DeleteTensor(factors);
  TF_DeleteTensor(images);
  TF_DeleteStatus(status);
}

__attribute__((constructor)) static void register_op(void) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder("TfSimclr>FinishViews");
  TF_OpDefinitionBuilderAddInput(op, "images: uint8");
  TF_OpDefinitionBuilderAddInput(op, "factors: float");
  TF_OpDefinitionBuilderAddInput(op, "choices: int32");
  TF_OpDefinitionBuilderAddOutput(op, "views: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, unknown_shape);
  TF_RegisterOpDefinition(op, status);
  TF_KernelBuilder* builder =
      TF_NewKernelBuilder("TfSimclr>FinishViews", "CPU", NULL, compute, NULL);
  TF_RegisterKernelBuilder("TfSimclr>FinishViews", builder, status);
  TF_DeleteStatus(status);
}
