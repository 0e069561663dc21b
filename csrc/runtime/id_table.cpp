#include "id_table.h"

#include <limits>
#include <random>
#include <stdexcept>

namespace autoemb {
namespace {

// The finaliser of SplitMix64. It is a bijection, so equal hashes mean equal ids.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Drawn per table, so that nobody can prepare ids that all collide. Row numbers do not depend on
// it.
uint64_t draw_secret() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// Makes room for so many values, by steps of a quarter: whoever asks, and however often.
template <class T>
void make_room(std::vector<T>& values, size_t size) {
  size_t capacity = values.capacity();
  while (capacity < size) capacity += capacity / 4 + 16;
  if (capacity != values.capacity()) values.reserve(capacity);
}

}  // namespace

size_t RowIndex::slots_for(size_t rows, size_t slots) {
  if (rows >= std::numeric_limits<uint32_t>::max()) {
    throw std::length_error("an id table has room for 4,294,967,294 ids");
  }
  if (slots == 0 && rows > 0) slots = 16;
  while (rows > slots / 5 * 4) slots += slots / 2;  // at most four fifths full
  return slots;
}

unsigned RowIndex::bits_for(size_t slots) {
  unsigned bits = 1;
  while (bits < 32 && (uint64_t{1} << bits) <= slots) ++bits;
  return bits;
}

size_t RowIndex::place(uint64_t hash) const {
  __extension__ using Wide = unsigned __int128;
  return static_cast<size_t>((static_cast<Wide>(hash) * slots_.size()) >> 64);
}

void RowIndex::add(uint64_t hash, int64_t row) noexcept {
  size_t at = place(hash);
  while (slots_[at] != kEmpty) at = after(at);
  slots_[at] = (static_cast<uint32_t>(hash) & ~row_mask()) | static_cast<uint32_t>(row + 1);
}

Int64IdTable::Int64IdTable() : secret_(draw_secret()) {}

uint64_t Int64IdTable::hash(int64_t id) const { return mix(static_cast<uint64_t>(id) ^ secret_); }

int64_t Int64IdTable::row(int64_t id, bool insert) {
  const uint64_t own = hash(id);
  int64_t row = index_.find(own, [&](int64_t other) { return ids_[other] == id; });
  if (row == kUnknown && insert) {
    row = static_cast<int64_t>(ids_.size());
    reserve(ids_.size() + 1);
    ids_.push_back(id);
    index_.add(own, row);
  }
  return row;
}

void Int64IdTable::reserve(size_t rows) {
  make_room(ids_, rows);
  index_.reserve(rows, ids_.size(), [this](size_t row) { return hash(ids_[row]); });
}

int64_t StringIdTable::row(std::string_view id, bool insert) {
  const uint64_t own = hash_(id);
  int64_t row = index_.find(own, [&](int64_t other) { return this->id(other) == id; });
  if (row == kUnknown && insert) {
    row = static_cast<int64_t>(size());
    const size_t start = row % kBlock == 0 ? bytes_.size() : starts_.back();
    const size_t end = bytes_.size() + id.size() - start;
    if (end > std::numeric_limits<uint32_t>::max()) {
      throw std::length_error("64 ids take more than 4 GiB");
    }
    reserve(size() + 1);
    make_room(bytes_, bytes_.size() + id.size());
    bytes_.insert(bytes_.end(), id.begin(), id.end());
    if (row % kBlock == 0) starts_.push_back(start);
    ends_.push_back(static_cast<uint32_t>(end));
    index_.add(own, row);
  }
  return row;
}

void StringIdTable::reserve(size_t rows) {
  make_room(ends_, rows);
  make_room(starts_, (rows + kBlock - 1) / kBlock);
  index_.reserve(rows, size(), [this](size_t row) { return hash_(id(row)); });
}

std::string_view StringIdTable::id(size_t row) const {
  const size_t start = starts_[row / kBlock];
  const size_t begin = start + (row % kBlock == 0 ? 0 : ends_[row - 1]);
  return {bytes_.data() + begin, start + ends_[row] - begin};
}

}  // namespace autoemb
