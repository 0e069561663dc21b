#include "traces.h"

namespace autoemb {

void forgetting_sums(const int64_t* rows, const float* values, size_t num_entries, size_t width,
                     double decay, float* sums) {
  for (size_t entry = 0; entry < num_entries; ++entry) {
    float* own = sums + static_cast<size_t>(rows[entry]) * width;
    for (size_t c = 0; c < width; ++c) {
      own[c] = static_cast<float>(decay * own[c] + values[entry * width + c]);
    }
  }
}

void learn_factors(const std::vector<FactorColumn>& columns, const float* residual,
                   const float* weight, size_t num_events, size_t width, double rate,
                   double penalty) {
  std::vector<double> total(width);
  // Each column's factors as they were: two features may hold one row of a table they share.
  std::vector<double> before(columns.size() * width);
  for (size_t event = 0; event < num_events; ++event) {
    double pairs = 0;
    for (size_t k = 0; k < width; ++k) {
      double sum = 0, squares = 0;
      for (size_t f = 0; f < columns.size(); ++f) {
        const auto row = static_cast<size_t>(columns[f].rows[event]);
        const double own = columns[f].table[row * width + k];
        before[f * width + k] = own;
        sum += own;
        squares += own * own;
      }
      total[k] = sum;
      pairs += (sum * sum - squares) / 2;
    }
    double reach = 0;  // how far a step of 1 would move the sum of products
    for (size_t i = 0; i < before.size(); ++i) {
      const double others = total[i % width] - before[i];
      reach += others * others;
    }
    const double error = residual[event] - pairs, full = rate * weight[event];
    const double step = full / (1 + full * reach);
    for (size_t f = 0; f < columns.size(); ++f) {
      float* own = columns[f].table + static_cast<size_t>(columns[f].rows[event]) * width;
      for (size_t k = 0; k < width; ++k) {
        const double was = before[f * width + k];
        own[k] = static_cast<float>(own[k] + step * (error * (total[k] - was) - penalty * was));
      }
    }
  }
}

}  // namespace autoemb
