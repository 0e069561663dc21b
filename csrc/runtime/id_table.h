// Tables that give raw ids row numbers 0, 1, 2, ... in the order in which the ids are first seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autoemb {

constexpr int64_t kUnknown = -1;

// Finds row numbers by 64-bit hash: open addressing with linear probing over a power of two of
// slots.
class RowIndex {
 public:
  // The row whose hash is `hash` and for which `is_same(row)` holds, or kUnknown.
  template <class IsSame>
  int64_t find(uint64_t hash, IsSame is_same) const {
    if (slots_.empty()) return kUnknown;
    for (size_t at = hash & mask();; at = (at + 1) & mask()) {
      const Slot& slot = slots_[at];
      if (slot.row == kUnknown || (slot.hash == hash && is_same(slot.row))) return slot.row;
    }
  }

  // Make room for `rows` rows in all. Afterwards `add` cannot fail until there are that many.
  void reserve(size_t rows);
  void add(uint64_t hash, int64_t row) noexcept;
  size_t nbytes() const { return slots_.size() * sizeof(Slot); }

 private:
  struct Slot {
    uint64_t hash = 0;
    int64_t row = kUnknown;
  };

  size_t mask() const { return slots_.size() - 1; }

  std::vector<Slot> slots_;
};

class Int64IdTable {
 public:
  Int64IdTable();

  // The row of `id`; an unknown id gets the next row if `insert`, else kUnknown.
  int64_t row(int64_t id, bool insert);
  void reserve(size_t rows);
  const std::vector<int64_t>& ids() const { return ids_; }  // in row order
  size_t nbytes() const { return index_.nbytes() + ids_.size() * sizeof(int64_t); }

 private:
  uint64_t secret_;
  RowIndex index_;
  std::vector<int64_t> ids_;
};

class StringIdTable {
 public:
  // As above. `hash` is the caller's, well mixed and the same for equal ids.
  int64_t row(std::string_view id, uint64_t hash, bool insert);
  void reserve(size_t rows);
  size_t size() const { return ends_.size(); }
  std::string_view id(size_t row) const;
  size_t nbytes() const { return index_.nbytes() + bytes_.size() + ends_.size() * sizeof(size_t); }

 private:
  RowIndex index_;
  std::string bytes_;  // all ids, one after the other
  std::vector<size_t> ends_;
};

}  // namespace autoemb
