#include "distinct.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace autoemb {
namespace {

struct Entry {
  uint64_t key;  // distance from the smallest value: non-negative whatever the signs
  size_t position;
};

// One pass of a least-significant-digit radix sort, by the byte at `shift`.
void sort_by_byte(const Entry* from, Entry* to, size_t size, int shift) {
  std::array<size_t, 256> begin{};
  for (size_t i = 0; i < size; ++i) ++begin[(from[i].key >> shift) & 255];
  size_t sum = 0;
  for (size_t& bucket : begin) sum += std::exchange(bucket, sum);
  for (size_t i = 0; i < size; ++i) to[begin[(from[i].key >> shift) & 255]++] = from[i];
}

}  // namespace

Distinct distinct(const int64_t* rows, size_t num_rows, int64_t* inverse) {
  Distinct found;
  if (num_rows == 0) return found;
  const auto [low, high] = std::minmax_element(rows, rows + num_rows);
  const uint64_t base = static_cast<uint64_t>(*low);
  const uint64_t range = static_cast<uint64_t>(*high) - base;

  std::unique_ptr<Entry[]> sorted(new Entry[num_rows]);
  std::unique_ptr<Entry[]> buffer(new Entry[num_rows]);
  for (size_t i = 0; i < num_rows; ++i) sorted[i] = {static_cast<uint64_t>(rows[i]) - base, i};
  // Row numbers are small: a table of 16 M rows needs three passes, not eight.
  for (int shift = 0; shift < 64 && (range >> shift) != 0; shift += 8) {
    sort_by_byte(sorted.get(), buffer.get(), num_rows, shift);
    sorted.swap(buffer);
  }

  for (size_t i = 0; i < num_rows; ++i) {
    if (i == 0 || sorted[i].key != sorted[i - 1].key) {
      found.values.push_back(rows[sorted[i].position]);
      found.counts.push_back(0);
    }
    ++found.counts.back();
    inverse[sorted[i].position] = static_cast<int64_t>(found.values.size()) - 1;
  }
  return found;
}

}  // namespace autoemb
