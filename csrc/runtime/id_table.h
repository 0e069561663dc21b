// Tables that give raw ids row numbers 0, 1, 2, ... in the order in which the ids are first seen.
//
// An id costs its own bytes and five to eight more: slots of four bytes find it, which hold its row
// and, in the bits that rows do not need, some of its hash. Everything grows by steps that depend
// on the number of ids alone, so that two tables of the same ids take the same memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace autoemb {

constexpr int64_t kUnknown = -1;

// Finds row numbers by 64-bit hash: open addressing with linear probing.
class RowIndex {
 public:
  // The row whose hash may be `hash` and for which `is_same(row)` holds, or kUnknown.
  template <class IsSame>
  int64_t find(uint64_t hash, IsSame is_same) const {
    if (slots_.empty()) return kUnknown;
    const uint32_t low = row_mask();  // where a slot has the row, plus one
    for (size_t at = place(hash); slots_[at] != kEmpty; at = after(at)) {
      const uint32_t slot = slots_[at];
      if (((slot ^ static_cast<uint32_t>(hash)) & ~low) != 0) continue;
      const int64_t row = static_cast<int64_t>(slot & low) - 1;
      if (is_same(row)) return row;
    }
    return kUnknown;
  }

  // Make room for `rows` rows in all, of which `have` are there. Afterwards `add` cannot fail until
  // there are that many. `hash_of(row)` is the hash of a row that is there.
  template <class HashOf>
  void reserve(size_t rows, size_t have, HashOf hash_of) {
    const size_t slots = slots_for(rows, slots_.size());
    if (slots == slots_.size()) return;
    std::vector<uint32_t>(slots, kEmpty).swap(slots_);
    row_bits_ = bits_for(slots);
    for (size_t row = 0; row < have; ++row) add(hash_of(row), static_cast<int64_t>(row));
  }

  void add(uint64_t hash, int64_t row) noexcept;
  size_t nbytes() const { return slots_.size() * sizeof(uint32_t); }

 private:
  static constexpr uint32_t kEmpty = 0;

  uint32_t row_mask() const { return static_cast<uint32_t>((uint64_t{1} << row_bits_) - 1); }
  static size_t slots_for(size_t rows, size_t slots);
  static unsigned bits_for(size_t slots);
  size_t place(uint64_t hash) const;  // by the high bits; a slot holds low ones
  size_t after(size_t at) const { return at + 1 == slots_.size() ? 0 : at + 1; }

  std::vector<uint32_t> slots_;
  unsigned row_bits_ = 0;
};

class Int64IdTable {
 public:
  Int64IdTable();

  // The row of `id`; an unknown id gets the next row if `insert`, else kUnknown.
  int64_t row(int64_t id, bool insert);
  void reserve(size_t rows);
  const std::vector<int64_t>& ids() const { return ids_; }  // in row order
  size_t nbytes() const { return index_.nbytes() + ids_.capacity() * sizeof(int64_t); }

 private:
  uint64_t hash(int64_t id) const;

  uint64_t secret_;
  RowIndex index_;
  std::vector<int64_t> ids_;
};

class StringIdTable {
 public:
  // The same for equal ids, well mixed, and not to be foreseen by whoever makes ids.
  using Hash = uint64_t (*)(std::string_view id);

  explicit StringIdTable(Hash hash) : hash_(hash) {}

  // As above.
  int64_t row(std::string_view id, bool insert);
  void reserve(size_t rows);
  size_t size() const { return ends_.size(); }
  std::string_view id(size_t row) const;
  size_t nbytes() const {
    return index_.nbytes() + bytes_.capacity() + ends_.capacity() * sizeof(uint32_t) +
           starts_.capacity() * sizeof(uint64_t);
  }

 private:
  static constexpr size_t kBlock = 64;

  Hash hash_;
  RowIndex index_;
  std::vector<char> bytes_;       // all ids, one after the other
  std::vector<uint64_t> starts_;  // where the first id of every 64 begins
  std::vector<uint32_t> ends_;    // where each id ends, from there
};

}  // namespace autoemb
