// The distinct values of a batch of row numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace autoemb {

struct Distinct {
  std::vector<int64_t> values;  // ascending
  std::vector<int64_t> counts;  // how often each value occurs
};

// Fills `inverse` so that rows[i] == values[inverse[i]].
Distinct distinct(const int64_t* rows, size_t num_rows, int64_t* inverse);

}  // namespace autoemb
