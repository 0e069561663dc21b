// What the kernels take: plain structs of pointers and sizes, copied into the launch, and what
// starts them. No torch header is seen here, nor by any kernel: the module builds in seconds on a
// machine without torch, and one binary serves every torch version.
//
// Shapes: B events, F fields, N sizes, S = sum of the sizes, D columns of the output, U <= B
// distinct ids of a field. Arrays are contiguous unless strides are given; strides count elements.
#pragma once

#include <cstddef>
#include <cstdint>

namespace autoemb {

constexpr int kMaxSizes = 16;
constexpr int kLocalSlots = 128;  // 3 KB: with the rest below the 4 KB of classic kernel parameters

// Arithmetic of the matrix products; accumulation is float32 in all of them.
enum class Mode { kIeee, kTf32, kBf16 };

// Where the rows of one size of one field lie.
struct Slot {
  const float* base;
  int64_t stride;    // between rows
  int64_t num_rows;  // ids outside are an error
};

// The F x N slots, field by field: in the kernel's parameters where they fit, in device memory
// otherwise, so that the number of launches does not depend on F.
struct Slots {
  const Slot* memory;  // null: local
  Slot local[kLocalSlots];
};

struct Strided {
  const float* data;
  int64_t event, field, size;  // strides; size is 1 for a column of a gradient
};

// One batch, as every kernel of the op sees it.
struct Batch {
  Slots slots;
  const int64_t* ids;  // [B, F]
  int64_t ids_event, ids_field;
  const float* projection;  // [F, D, S]
  int64_t* error;  // 4 numbers: field + 1 (0: no error), id, rows of the table, event (kNoEvent)
  int events, fields, sizes, width, total;
  int dims[kMaxSizes];
};

// How the work of a batch is spread over blocks (tiling.h).
struct Tiling {
  int groups;         // blocks that share the tiles of a field
  int column_blocks;  // blocks that share the columns
  int resident;       // whether the projection of all sizes stays in shared memory
  int weight_floats;  // of shared memory
  int row_floats;
};

// Distinct ids of every field, ascending.
struct Plan {
  int64_t* rows;     // [F, B], padded by repeating the last
  int64_t* counts;   // [F, B], padded by 0
  int64_t* starts;   // [F, B + 1], into order; padded by the number of events with a valid id
  int64_t* order;    // [F, B], events sorted by id, stable; events with a bad id at the end
  int64_t* inverse;  // [B, F], of a bad id: 0
  int64_t* used;     // [F], U
};

// y = (z - mean + bias) / sqrt(variance + eps), where z has no bias and is shifted; bias null: 0.
struct Normaliser {
  const float* mean;      // [F, N, D]
  const float* bias;      // [F, N, D] or null
  const float* variance;  // [F, N, D]
  const float* shift;     // [F, S], taken from every row before it is rounded; null: 0
  float eps;
  float factor;  // 1 / N, or 1 where weights are not averaged
};

// Moments of each 16-row strip of a block's tiles, merged over its tiles.
struct Strips {
  float* count;  // [F, N, strips]
  float* mean;   // [F, N, strips, D]
  float* m2;     // [F, N, strips, D]
};

struct StatisticsParams {
  Batch batch;
  Tiling tiling;
  Strips strips;
  float* shift;  // [F, S]
};

struct MergeParams {
  Batch batch;
  Strips strips;
  int num_strips;
  const float* shift;
  const float* bias;
  float* centre;    // [F, N, D], mean of the shifted z
  float* mean;      // [F, N, D], with shift and bias
  float* variance;  // [F, N, D]
};

// The centre for the backward pass, as the mean of rows times the projection. The mean that the
// forward pass returned lacks its digits: bias and shift were added, and where all events share an
// id, 1/sqrt(eps) = 316 multiplies what their rounding leaves.
struct RecentreParams {
  Batch batch;
  int groups;
  Mode mode;
  float* shift;   // [F, S]
  float* sums;    // [groups, F, S], of shifted rows as the products see them
  float* counts;  // [groups, F], of events whose id has a row
  float* centre;  // [F, N, D]
};

struct NormaliseParams {
  Batch batch;
  Tiling tiling;
  Normaliser normaliser;
  Strided weights;
  float* output;  // [B, F, D]
};

struct WeightsGradientParams {
  Batch batch;
  Tiling tiling;
  Normaliser normaliser;
  Strided grad;
  float* result;  // [column blocks, B, F, N], or [B, F, N] where there is one
};

struct SumChunksParams {
  const float* chunks;  // [num_chunks, size]
  float* result;        // [size]
  int64_t size;
  int num_chunks;
};

struct PlanParams {
  Batch batch;
  Plan plan;
};

// The ids, a bad one as the largest number: rows for what indexes tables without looking, and keys
// to sort by for batches that one block cannot sort.
struct CheckedIdsParams {
  Batch batch;
  int64_t* result;
  int64_t result_event, result_field;  // strides
  int named;                           // field of the model that the batch's first one is
};

// The plan from what was sorted.
struct SortedParams {
  Batch batch;
  Plan plan;               // order is given: the permutation that sorted the keys
  const int64_t* keys;     // [F, B], ascending
  const int64_t* indices;  // [F, B], how many distinct keys lie before each
};

// Gradient of the output with what weighs it, summed per distinct id.
struct Segments {
  const int64_t* starts;  // as in Plan
  const int64_t* order;
  const int64_t* used;
  Strided weights;
  Strided grad;
  const float* windows;  // [F, windows, N, D]
  int num_windows;
};

struct WindowsParams {
  Batch batch;
  Segments segments;
  const int64_t* inverse;
  float* windows;
};

// Sums over the distinct rows of a group of tiles.
struct Sums {
  float* first;       // [groups, F, N, D], of dy
  float* second;      // [groups, F, N, D], of dy y
  float* count;       // [groups, F, N], of events
  float* rows;        // [groups, F, S], of shifted rows, per event
  float* product;     // [groups, F, D, S], of shifted rows and dy
  float* covariance;  // [groups, F, D, S], of shifted rows and y, per event
};

struct ReduceParams {
  Batch batch;
  Tiling tiling;
  Normaliser normaliser;
  Segments segments;
  Sums sums;
  int training;
};

struct FinaliseParams {
  Batch batch;
  Tiling tiling;
  Normaliser normaliser;
  const int64_t* used;
  Sums sums;
  float* first;            // [F, N, D], sum of dy
  float* second;           // [F, N, D], sum of dy y
  float* count;            // [F, N]
  float* projection_grad;  // [F, D, S]
  float* bias_grad;        // [F, N, D]
  int training;
};

struct RowsGradientParams {
  Batch batch;
  Tiling tiling;
  Normaliser normaliser;
  Segments segments;
  const float* first;
  const float* second;
  const float* count;
  float* rows_grad;  // [F, B, S]
  int training;
};

// Rows of a table that an optimiser changes.
struct UpdateParams {
  float* table;
  int64_t table_stride;
  const int64_t* rows;  // [num_rows], distinct; one that repeats the one before it is padding
  const float* grad;    // [num_rows, width]
  double learning_rate;
  int64_t table_rows;  // V; a row number outside is reported and passed over
  int64_t* error;      // as Batch's
  int num_rows;
  int width;
  double eps, beta_1, beta_2;
  float* sum;  // Adagrad: [V, width], or [V] if rowwise
  bool rowwise;
  float* average;  // Adam: [V, width]
  float* square;   // Adam: [V, width]
  int32_t* step;   // Adam: [V]
};

struct RecordParams {
  Plan plan;  // of one field
  const float* loss;
  double decay;
  int64_t* count;
  float* last_loss;
  float* mean_loss;
  int64_t num_rows;  // V; a row number outside is reported and passed over
  int64_t* error;    // as Batch's
  int events;
};

struct DescribeParams {
  static constexpr int kSlots = 1300;  // 31 KB; kernel parameters hold 32
  Slot* memory;
  int first, count;
  Slot slots[kSlots];
};

// A CUDA stream. Launchers throw std::runtime_error with the kernel's name; none allocates or
// waits.
using Stream = void*;

void describe(const DescribeParams& params, Stream stream);
void statistics(const StatisticsParams& params, Mode mode, Stream stream);
void merge(const MergeParams& params, Stream stream);
void sum_rows(const RecentreParams& params, Stream stream);
void recentre(const RecentreParams& params, Stream stream);
void normalise(const NormaliseParams& params, Mode mode, Stream stream);
void weights_gradient(const WeightsGradientParams& params, Mode mode, Stream stream);
void sum_chunks(const SumChunksParams& params, Stream stream);
void plan(const PlanParams& params, Stream stream);
void checked_ids(const CheckedIdsParams& params, Stream stream);
void plan_from_sorted(const SortedParams& params, Stream stream);
void windows(const WindowsParams& params, Stream stream);
void reduce(const ReduceParams& params, Mode mode, Stream stream);
void finalise(const FinaliseParams& params, Stream stream);
void rows_gradient(const RowsGradientParams& params, Mode mode, Stream stream);
void update_sgd(const UpdateParams& params, Stream stream);
void update_adagrad(const UpdateParams& params, Stream stream);
void update_adam(const UpdateParams& params, Stream stream);
void record(const RecordParams& params, Stream stream);

}  // namespace autoemb
