// The native CPU kernels: what a tile of distinct ids needs, and the table of functions that each
// instruction set fills (isa.cpp is compiled once for each). No torch here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace autoemb::cpu {

// Distinct ids that are worked on together: 48 rows of 384 floats stay in the second-level cache.
constexpr int64_t kTileRows = 48;

// One embedding size of one field, as kernels see it: row r starts at base + r * stride.
struct Table {
  const float* base;
  int64_t stride;
};

// One field of one call. Shapes: U distinct ids, N sizes of widths dims[n], S = sum(dims), D output
// columns, padded to `padded_width` in all work memory.
struct Field {
  int64_t distinct, sizes, total, width, padded_width;
  const int64_t* dims;
  const Table* tables;    // [N]
  const int64_t* rows;    // [U]: the distinct ids, ascending
  const int64_t* order;   // [B]: events by distinct id
  const int64_t* starts;  // [U + 1]: where each id's events begin in `order`

  const float* projection;  // [D, S]
  float* by_width;          // projection for [U, d] x [d, D], packed
  float* by_total;          // projection for [U, D] x [D, d], packed

  const float* centre;   // [S]: subtracted from every row
  const float* shift;    // [N, D']: added to the product
  const float* scale;    // [N, D']: 1 / sqrt(variance + eps)
  const float* share;    // [U]: part of the batch that an id makes up; null where none is needed
  const float* sum;      // [N, D']: of dy
  const float* product;  // [N, D']: of dy * y

  const float* weights;  // of event b and size n: weights[b * event_stride + n * size_stride]
  int64_t weights_event_stride, weights_size_stride;
  const float* grad;  // of event b: grad + b * grad_stride, D floats
  int64_t grad_stride;
  float* output;  // of event b: output + b * output_stride
  int64_t output_stride;
  float* weights_grad;  // as a contiguous [B, F, N] of which this is one field
  int64_t weights_grad_stride;
  float factor;  // 1 / N with Eq. 7's average, else 1
};

// Work memory of one tile.
struct Tile {
  int64_t begin, rows;
  float* embeddings;  // [48, S]
  float* normalised;  // [N, 48, D'], and room for [48, d'] of any size
  float* slope;       // [N, 48, D']: dy, then dz
  float* row;         // [2, N, D']: of the row at hand
};

// Hyperparameters of an update of rows; those that an optimiser does not have are ignored.
struct Update {
  float* table;
  int64_t table_stride;
  const int64_t* rows;  // [U], distinct but for padding
  const float* grad;    // [U, width]
  int64_t width;
  double learning_rate, beta_1, beta_2, eps;
  float *average, *square;  // Adam's moments [V, width]; `square` is Adagrad's sum
  bool rowwise;             // Adagrad's sum is [V], not [V, width]
  int32_t* steps;           // [V]
};

struct Kernels {
  const char* name;
  int64_t vector;  // floats of a vector: D is padded to a multiple
  // Floats that by_width and by_total take.
  int64_t (*packed_by_width)(const Field&);
  int64_t (*packed_by_total)(const Field&);
  void (*pack_by_width)(const Field&);
  void (*pack_by_total)(const Field&);

  // embeddings = rows of the tile's ids
  void (*gather)(const Field&, const Tile&);
  // sums [S] = sum over the tile's ids of share * row
  void (*sum_rows)(const Field&, const Tile&, double* sums);
  void (*centre)(const Field&, const Tile&);  // embeddings -= centre
  // result [N, D'] = row [S] x projection, in double
  void (*project_exactly)(const Field&, const double* row, double* result);
  // normalised = embeddings x projection + shift, not yet scaled
  void (*project)(const Field&, const Tile&);
  // squares [N, D'] = sum over rows of share * (normalised - mean)^2; mean is 0, or if `means`
  // [N, D'] is not null the tile's, which is then stored there
  void (*sum_squares)(const Field&, const Tile&, float* means, float* squares);
  // scale, tanh, and the weighted sum of every event of the tile's ids
  void (*mix)(const Field&, const Tile&);
  // scale; gradient of the weights; if `sums` [2, N, D'] is not null: slope = dy, sums of dy and of
  // dy * y
  void (*differentiate)(const Field&, const Tile&, float* sums);
  // slope = dz; projection_grad [S, D'] += embeddings^T dz; embeddings = their gradients
  void (*propagate)(const Field&, const Tile&, float* projection_grad);

  void (*tanh)(const float* x, float* y, int64_t count);
  void (*update_sgd)(const Update&, int64_t begin, int64_t end);
  void (*update_adagrad)(const Update&, int64_t begin, int64_t end);
  void (*update_adam)(const Update&, int64_t begin, int64_t end);
};

// Those with that name; null: none such on this CPU.
const Kernels* kernels_named(const char* name);

extern const Kernels kBaseline;
extern const Kernels kAvx2;
extern const Kernels kAvx512;

}  // namespace autoemb::cpu
