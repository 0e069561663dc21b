#include "distinct.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <utility>

namespace autoemb {
namespace {

template <class Word>
struct Entry {
  Word key;  // distance from the smallest value: non-negative whatever the signs
  Word position;
};

// One pass of a least-significant-digit radix sort.
template <class Word>
void sort_by_digit(const Entry<Word>* from, Entry<Word>* to, size_t size, int shift, Word mask) {
  std::array<size_t, 2048> begin;
  std::fill_n(begin.begin(), mask + 1, 0);
  for (size_t i = 0; i < size; ++i) ++begin[(from[i].key >> shift) & mask];
  size_t sum = 0;
  for (size_t digit = 0; digit <= mask; ++digit) sum += std::exchange(begin[digit], sum);
  for (size_t i = 0; i < size; ++i) to[begin[(from[i].key >> shift) & mask]++] = from[i];
}

template <class Word>
Distinct distinct_by_sorting(const int64_t* rows, size_t num_rows, int64_t low, uint64_t range,
                             int64_t* inverse) {
  const uint64_t base = static_cast<uint64_t>(low);
  std::unique_ptr<Entry<Word>[]> sorted(new Entry<Word>[num_rows]);
  std::unique_ptr<Entry<Word>[]> buffer(new Entry<Word>[num_rows]);
  for (size_t i = 0; i < num_rows; ++i) {
    sorted[i] = {static_cast<Word>(static_cast<uint64_t>(rows[i]) - base), static_cast<Word>(i)};
  }

  // Row numbers are small, so few digits are enough; wide digits pay where the batch is large.
  int bits = 0;
  while (bits < 64 && (range >> bits) != 0) ++bits;
  const int widest = num_rows < 4096 ? 8 : 11;
  const int passes = (bits + widest - 1) / widest;
  const int width = passes == 0 ? 0 : (bits + passes - 1) / passes;
  for (int pass = 0; pass < passes; ++pass) {
    sort_by_digit<Word>(sorted.get(), buffer.get(), num_rows, pass * width, (Word{1} << width) - 1);
    sorted.swap(buffer);
  }

  // Without a branch: in a batch of few distinct rows, a processor cannot guess where one ends.
  std::unique_ptr<size_t[]> end(new size_t[num_rows]);
  size_t value = 0;
  for (size_t i = 0; i < num_rows; ++i) {
    value += i != 0 && sorted[i].key != sorted[i - 1].key;
    end[value] = i + 1;
    inverse[sorted[i].position] = static_cast<int64_t>(value);
  }
  Distinct found{std::vector<int64_t>(value + 1), std::vector<int64_t>(value + 1)};
  for (size_t v = 0, begin = 0; v <= value; begin = end[v++]) {
    found.values[v] = static_cast<int64_t>(base + sorted[begin].key);
    found.counts[v] = static_cast<int64_t>(end[v] - begin);
  }
  return found;
}

}  // namespace

Distinct distinct(const int64_t* rows, size_t num_rows, int64_t* inverse) {
  if (num_rows == 0) return {};
  const auto [low, high] = std::minmax_element(rows, rows + num_rows);
  const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low);
  constexpr uint64_t kNarrow = std::numeric_limits<uint32_t>::max();
  const auto by_sorting = range <= kNarrow && num_rows <= kNarrow ? distinct_by_sorting<uint32_t>
                                                                  : distinct_by_sorting<uint64_t>;
  return by_sorting(rows, num_rows, *low, range, inverse);
}

}  // namespace autoemb
