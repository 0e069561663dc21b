#include "id_table.h"

#include <random>
#include <stdexcept>
#include <utility>

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

}  // namespace

void RowIndex::reserve(size_t rows) {
  if (rows > slots_.max_size() / 2) throw std::length_error("an id table cannot be that large");
  size_t size = slots_.empty() ? 16 : slots_.size();
  while (rows > size / 4 * 3) size *= 2;  // at most three quarters full
  if (size == slots_.size()) return;
  std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(size));
  for (const Slot& slot : old) {
    if (slot.row != kUnknown) add(slot.hash, slot.row);
  }
}

void RowIndex::add(uint64_t hash, int64_t row) noexcept {
  size_t at = hash & mask();
  while (slots_[at].row != kUnknown) at = (at + 1) & mask();
  slots_[at] = {hash, row};
}

Int64IdTable::Int64IdTable() : secret_(draw_secret()) {}

int64_t Int64IdTable::row(int64_t id, bool insert) {
  const uint64_t hash = mix(static_cast<uint64_t>(id) ^ secret_);
  int64_t row = index_.find(hash, [](int64_t) { return true; });
  if (row == kUnknown && insert) {
    row = static_cast<int64_t>(ids_.size());
    index_.reserve(ids_.size() + 1);
    ids_.push_back(id);
    index_.add(hash, row);
  }
  return row;
}

void Int64IdTable::reserve(size_t rows) {
  index_.reserve(rows);
  ids_.reserve(rows);
}

int64_t StringIdTable::row(std::string_view id, uint64_t hash, bool insert) {
  int64_t row = index_.find(hash, [&](int64_t other) { return this->id(other) == id; });
  if (row == kUnknown && insert) {
    row = static_cast<int64_t>(size());
    index_.reserve(size() + 1);
    bytes_.append(id);
    ends_.push_back(bytes_.size());
    index_.add(hash, row);
  }
  return row;
}

void StringIdTable::reserve(size_t rows) {
  index_.reserve(rows);
  ends_.reserve(rows);
}

std::string_view StringIdTable::id(size_t row) const {
  const size_t begin = row == 0 ? 0 : ends_[row - 1];
  return std::string_view(bytes_).substr(begin, ends_[row] - begin);
}

}  // namespace autoemb
