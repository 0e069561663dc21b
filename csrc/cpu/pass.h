// What the passes over the tiles of a call share: distinct ids, statistics, work memory.
#pragma once

#include <cstdint>
#include <vector>

#include "../runtime/distinct.h"
#include "kernels.h"
#include "memory.h"
#include "soft_embedding.h"

namespace autoemb::cpu {

// One field with all that its `Field` points to.
struct Work {
  Field field{};
  Distinct distinct;
  std::vector<int64_t> column, inverse, order, starts;
  std::vector<float> share, centre;
  Floats shift, scale, sum, product, by_width, by_total;
  int64_t first_tile = 0, tiles = 0;
  OutOfRange out_of_range;
};

// Adds the parts [tiles, columns] of a field's tiles in their order.
template <class Number>
std::vector<double> merged(const Work& work, const Number* parts, int64_t columns) {
  std::vector<double> sums(static_cast<size_t>(columns), 0.0);
  for (int64_t tile = work.first_tile; tile < work.first_tile + work.tiles; ++tile) {
    for (int64_t j = 0; j < columns; ++j) sums[j] += parts[tile * columns + j];
  }
  return sums;
}

class Pass {
 public:
  // `embeddings`: memory [F, B, S] for those of all distinct ids, or null: a tile's are gathered
  // whenever it is worked on. `kept_bytes` of tiles are kept.
  Pass(const Call& call, float* embeddings, int64_t kept_bytes);

  OutOfRange out_of_range() const {
    for (const Work& work : works_) {
      if (work.out_of_range.field >= 0) return work.out_of_range;
    }
    return {};
  }

  // Centres and shifts; in training mode the means as well, unless `means` is null.
  void centre(float* means);
  // Embeddings of a tile, centred; with memory for all: once, before all else is done with it.
  void embed(const Field& field, const Tile& memory);
  // 1 / sqrt(variance + eps)
  void set_scale(Work& work, int64_t f);

  std::vector<Work>& works() { return works_; }
  int64_t tiles() const { return tiles_; }
  int64_t columns() const { return columns_; }  // N * D'
  Work& work_of(int64_t tile) { return works_[field_of_[tile]]; }

  // Work memory of a tile, and whether values and slopes of an earlier pass are still there.
  Tile memory(int64_t tile, int thread);
  bool kept(int64_t tile) const { return tile < kept_; }

 private:
  // What the kernels are told of a field whose distinct ids are known; S is `total`.
  void prepare(int64_t f, int64_t total);

  const Call& call_;
  float* embeddings_;
  std::vector<Work> works_;
  std::vector<int64_t> field_of_;
  int64_t tiles_ = 0, kept_ = 0, columns_ = 0, tile_columns_ = 0;
  int64_t tile_floats_ = 0, thread_floats_ = 0;
  float *tile_memory_ = nullptr, *thread_memory_ = nullptr;
};

}  // namespace autoemb::cpu
