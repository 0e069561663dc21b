// The op on the CPU: plans, work memory, statistics and threads around the kernels of a tile.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace autoemb::cpu {

// Pointers of one call; B events, F fields, N sizes. Contiguous where no stride is given.
struct Call {
  int64_t batch, fields, width;   // B, F, D
  std::vector<int64_t> dims;      // [N]
  std::vector<Table> tables;      // [F * N]
  std::vector<int64_t> num_rows;  // [F]
  const int64_t* ids;             // [B, F]
  int64_t ids_event_stride, ids_field_stride;
  const float* weights;  // [B, F, N]
  int64_t weights_event_stride, weights_field_stride, weights_size_stride;
  const float *projection, *bias;                          // [F, D, S], [F, N, D]
  float *mean, *variance;                                  // [F, N, D]: what is normalised with
  float *batch_mean = nullptr, *batch_variance = nullptr;  // [F, N, D]: see `forward`
  float eps;
  bool average, training;
  const Kernels* kernels;
  int threads;
};

// An id outside its table; field -1: there is none.
struct OutOfRange {
  int64_t field = -1, id = 0;
};

// Fills output [B, F, D], and in training mode mean and variance, which otherwise are read: then
// the batch's own are stored in batch_mean and batch_variance, if they are not null.
OutOfRange forward(const Call& call, float* output);

struct Gradients {
  float* weights;     // [B, F, N]
  int64_t* rows;      // [F, B]; null: the gradient of the weights alone
  float* embeddings;  // [F, B, S]
  float* projection;  // [F, D, S]
  float* bias;        // [F, N, D]
};

OutOfRange backward(const Call& call, const float* grad, int64_t grad_event_stride,
                    int64_t grad_field_stride, const Gradients& result);

}  // namespace autoemb::cpu
