// What labels say of ids, event by event: sums that forget, and factors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace autoemb {

// In the order of the events: sums[r] = decay * sums[r] + value, for rows of `width` numbers. Every
// row must be one of the table's.
void forgetting_sums(const int64_t* rows, const float* values, size_t num_entries, size_t width,
                     double decay, float* sums);

// The factors of a feature's ids, and the row of each event.
struct FactorColumn {
  float* table;
  const int64_t* rows;
};

// A step of stochastic gradient descent an event, in their order, on
// (residual - sum_{f<g} <p_f, p_g>)^2 / 2 + penalty / 2 * sum_f |p_f|^2, of size rate * weight
// where that is small, and never so far that the error would change its sign (to first order): its
// size is r / (1 + r * reach), with r = rate * weight and reach the squared norm of the products'
// gradient.
// Features may share a table. Every row must be one of its table's.
void learn_factors(const std::vector<FactorColumn>& columns, const float* residual,
                   const float* weight, size_t num_events, size_t width, double rate,
                   double penalty);

}  // namespace autoemb
