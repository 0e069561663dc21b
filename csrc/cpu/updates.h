// Optimiser steps of distinct rows, in one pass over row, gradient and state. The arithmetic is
// that of autoemb/ops/updates.py, rounding included but for fused multiply-adds.
#pragma once

#include "kernels.h"

namespace autoemb::cpu {
namespace {

// A row that repeats the one before it is padding.
inline bool is_padding(const Update& u, int64_t i) { return i > 0 && u.rows[i] == u.rows[i - 1]; }

void update_sgd(const Update& u, int64_t begin, int64_t end) {
  const auto rate = static_cast<float>(u.learning_rate);
  for (int64_t i = begin; i < end; ++i) {
    if (is_padding(u, i)) continue;
    float* const value = u.table + u.rows[i] * u.table_stride;
    const float* const grad = u.grad + i * u.width;
    for (int64_t k = 0; k < u.width; ++k) value[k] -= rate * grad[k];
  }
}

void update_adagrad(const Update& u, int64_t begin, int64_t end) {
  const auto rate = static_cast<float>(u.learning_rate);
  const auto eps = static_cast<float>(u.eps);
  for (int64_t i = begin; i < end; ++i) {
    if (is_padding(u, i)) continue;
    const int64_t row = u.rows[i];
    float* const value = u.table + row * u.table_stride;
    const float* const grad = u.grad + i * u.width;
    if (!u.rowwise) {
      float* const total = u.square + row * u.width;
      for (int64_t k = 0; k < u.width; ++k) {
        total[k] += grad[k] * grad[k];
        value[k] -= rate * (grad[k] / (__builtin_sqrtf(total[k]) + eps));
      }
      continue;
    }
    double squares = 0;
    for (int64_t k = 0; k < u.width; ++k) squares += static_cast<double>(grad[k]) * grad[k];
    float& total = u.square[row];
    total += static_cast<float>(squares / static_cast<double>(u.width));
    const float divisor = __builtin_sqrtf(total) + eps;
    for (int64_t k = 0; k < u.width; ++k) value[k] -= rate * (grad[k] / divisor);
  }
}

void update_adam(const Update& u, int64_t begin, int64_t end) {
  const auto beta_2 = static_cast<float>(u.beta_2);
  const auto rest_1 = static_cast<float>(1 - u.beta_1), rest_2 = static_cast<float>(1 - u.beta_2);
  const auto eps = static_cast<float>(u.eps);
  for (int64_t i = begin; i < end; ++i) {
    if (is_padding(u, i)) continue;
    const int64_t row = u.rows[i];
    float* const value = u.table + row * u.table_stride;
    const float* const grad = u.grad + i * u.width;
    float* const average = u.average + row * u.width;
    float* const square = u.square + row * u.width;
    const int32_t step = ++u.steps[row];
    const auto size = static_cast<float>(u.learning_rate / (1 - __builtin_pow(u.beta_1, step)));
    const auto correction = static_cast<float>(__builtin_sqrt(1 - __builtin_pow(u.beta_2, step)));
    for (int64_t k = 0; k < u.width; ++k) {
      average[k] += rest_1 * (grad[k] - average[k]);
      square[k] = square[k] * beta_2 + rest_2 * (grad[k] * grad[k]);
      value[k] -= average[k] / (__builtin_sqrtf(square[k]) / correction + eps) * size;
    }
  }
}

}  // namespace
}  // namespace autoemb::cpu
