#include "soft_embedding.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>

#include "../runtime/distinct.h"
#include "threads.h"

namespace autoemb::cpu {
namespace {

// Tiles that stay in work memory between two passes over them; beyond, a tile is computed again, so
// that no call needs more memory for large batches. The forward pass of 4,096 distinct ids a field
// takes 6.0 ms with 12 MiB and 9.8 ms with 4. In the backward pass, which has the peak, it is 15.5
// ms and 16.5 ms: there 4 MiB leave forward and backward at a third of the memory that torch.nn
// takes.
constexpr int64_t kKeptForward = int64_t{12} << 20;
constexpr int64_t kKeptBackward = int64_t{4} << 20;
constexpr int64_t kMostChunks = 12;

struct Free {
  void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float, Free>;

Floats floats(int64_t count) {
  const auto bytes = sizeof(float) * static_cast<size_t>(std::max<int64_t>(count, 1));
  return Floats(static_cast<float*>(::operator new(bytes, std::align_val_t{64})));
}

Floats zeros(int64_t count) {
  Floats memory = floats(count);
  std::fill_n(memory.get(), count, 0.0f);
  return memory;
}

// Memory for the tiles of this thread's call at hand, kept for its next: at most kKeptForward and
// what the threads need. Fresh memory would be paged in anew by every call, 0.3 ms of 2.4 ms at 500
// events.
float* reused(int64_t count) {
  thread_local Floats memory;
  thread_local int64_t size = 0;
#ifdef __SANITIZE_ADDRESS__  // which sees an overrun only where memory is no longer than needed
  size = -1;
#endif
  if (count > size) {
    memory.reset();
    memory = floats(count);
    size = count;
  }
  return memory.get();
}

int64_t up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// One field with all that its `Field` points to.
struct Work {
  Field field{};
  Distinct distinct;
  std::vector<int64_t> column, inverse, order, starts;
  std::vector<std::vector<int64_t>> own_rows;  // where row numbers are not the ids
  std::vector<const int64_t*> rows;
  std::vector<float> share, centre;
  Floats shift, scale, sum, product, by_width, by_total;
  int64_t first_tile = 0, tiles = 0;
  OutOfRange out_of_range;
};

void plan(const Call& call, int64_t f, Work& work) {
  work.column.resize(static_cast<size_t>(call.batch));
  for (int64_t b = 0; b < call.batch; ++b) {
    work.column[b] = call.ids[b * call.ids_event_stride + f * call.ids_field_stride];
  }
  work.inverse.resize(work.column.size());
  work.distinct = distinct(work.column.data(), work.column.size(), work.inverse.data());
  const auto& values = work.distinct.values;
  for (const int64_t id : {values.front(), values.back()}) {
    if (id < 0 || id >= call.num_rows[f]) {
      work.out_of_range = {f, id};
      return;
    }
  }
  const size_t used = values.size();
  work.starts.assign(used + 1, 0);
  std::partial_sum(work.distinct.counts.begin(), work.distinct.counts.end(),
                   work.starts.begin() + 1);
  work.order.resize(work.column.size());
  std::vector<int64_t> next(work.starts.begin(), work.starts.end() - 1);
  for (int64_t b = 0; b < call.batch; ++b) work.order[next[work.inverse[b]]++] = b;
}

// Rows and shares of every size; a size whose rows some ids lack has fewer events.
void find_rows(const Call& call, Work& work) {
  Field& field = work.field;
  const size_t used = work.distinct.values.size();
  work.own_rows.resize(static_cast<size_t>(field.sizes));
  if (call.training) work.share.resize(static_cast<size_t>(field.sizes) * used);
  for (int64_t n = 0; n < field.sizes; ++n) {
    const int64_t* given = field.tables[n].rows;
    if (given == nullptr) {
      work.rows.push_back(work.distinct.values.data());
    } else {
      for (size_t u = 0; u < used; ++u) {
        work.own_rows[n].push_back(given[work.order[work.starts[u]]]);
      }
      work.rows.push_back(work.own_rows[n].data());
    }
    if (!call.training) continue;
    int64_t events = 0;
    for (size_t u = 0; u < used; ++u) {
      if (work.rows[n][u] >= 0) events += work.distinct.counts[u];
    }
    for (size_t u = 0; u < used; ++u) {
      const auto count = static_cast<float>(work.distinct.counts[u]);
      work.share[n * used + u] = work.rows[n][u] < 0 ? 0.0f : count / static_cast<float>(events);
    }
  }
}

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
  // `kept_bytes` of tiles are kept, with their slopes if `gradients`.
  Pass(const Call& call, int64_t kept_bytes, bool gradients);

  OutOfRange out_of_range() const {
    for (const Work& work : works_) {
      if (work.out_of_range.field >= 0) return work.out_of_range;
    }
    return {};
  }

  // Centres and shifts; in training mode the means as well, unless `means` is null.
  void centre(float* means);
  // 1 / sqrt(variance + eps)
  void set_scale(Work& work, int64_t f);

  std::vector<Work>& works() { return works_; }
  int64_t tiles() const { return tiles_; }
  int64_t columns() const { return columns_; }  // N * D'
  Work& work_of(int64_t tile) { return works_[field_of_[tile]]; }

  // Work memory of a tile, and whether what was written there in an earlier pass is still there.
  Tile memory(int64_t tile, int thread);
  bool kept(int64_t tile) const { return tile < kept_; }

 private:
  const Call& call_;
  bool gradients_;
  std::vector<Work> works_;
  std::vector<int64_t> field_of_;
  int64_t tiles_ = 0, kept_ = 0, columns_ = 0, tile_columns_ = 0, total_stride_ = 0;
  int64_t tile_floats_ = 0;
  float *tile_memory_ = nullptr, *thread_memory_ = nullptr;
};

Pass::Pass(const Call& call, int64_t kept_bytes, bool gradients)
    : call_(call), gradients_(gradients), works_(static_cast<size_t>(call.fields)) {
  const auto sizes = static_cast<int64_t>(call.dims.size());
  const int64_t total = std::accumulate(call.dims.begin(), call.dims.end(), int64_t{0});
  const int64_t vector = call.kernels->vector, padded = up(call.width, vector);
  columns_ = sizes * padded;
  // Where values of a tile were, gradients of one size's rows come to lie, and it may be wider.
  tile_columns_ =
      std::max(columns_, up(*std::max_element(call.dims.begin(), call.dims.end()), vector));
  total_stride_ = up(total, 16);
  parallel_for(call.threads, call.fields, [&](int64_t f, int) { plan(call, f, works_[f]); });
  if (out_of_range().field >= 0) return;
  for (int64_t f = 0; f < call.fields; ++f) {
    Work& work = works_[f];
    Field& field = work.field;
    field.distinct = static_cast<int64_t>(work.distinct.values.size());
    field.sizes = sizes;
    field.total = total;
    field.width = call.width;
    field.padded_width = padded;
    field.total_stride = total_stride_;
    field.dims = call.dims.data();
    field.tables = call.tables.data() + f * sizes;
    find_rows(call, work);
    field.rows = work.rows.data();
    field.order = work.order.data();
    field.starts = work.starts.data();
    field.projection = call.projection + f * call.width * total;
    field.share = call.training ? work.share.data() : nullptr;
    field.weights = call.weights + f * call.weights_field_stride;
    field.weights_event_stride = call.weights_event_stride;
    field.weights_size_stride = call.weights_size_stride;
    field.factor = call.average ? 1.0f / static_cast<float>(sizes) : 1.0f;
    work.centre.assign(static_cast<size_t>(total), 0.0f);
    field.centre = work.centre.data();
    work.shift = zeros(columns_);
    work.scale = zeros(columns_);
    field.shift = work.shift.get();
    field.scale = work.scale.get();
    work.by_width = floats(call.kernels->packed_by_width(field));
    field.by_width = work.by_width.get();
    work.first_tile = tiles_;
    work.tiles = (field.distinct + kTileRows - 1) / kTileRows;
    tiles_ += work.tiles;
    field_of_.insert(field_of_.end(), static_cast<size_t>(work.tiles), f);
  }
  tile_floats_ = kTileRows * (tile_columns_ + (gradients ? columns_ + total_stride_ : 0));
  kept_ = std::min(tiles_, kept_bytes / static_cast<int64_t>(sizeof(float)) / tile_floats_);
  const int64_t in_thread = kTileRows * (tile_columns_ + columns_ + total_stride_) + 2 * columns_;
  tile_memory_ = reused(kept_ * tile_floats_ + call.threads * in_thread);
  thread_memory_ = tile_memory_ + kept_ * tile_floats_;
  parallel_for(call.threads, call.fields,
               [&](int64_t f, int) { call.kernels->pack_by_width(works_[f].field); });
}

Tile Pass::memory(int64_t tile, int thread) {
  const Work& work = work_of(tile);
  const int64_t normalised = kTileRows * tile_columns_, slope = kTileRows * columns_;
  const int64_t embeddings = kTileRows * total_stride_;
  float* own = thread_memory_ + thread * (normalised + slope + embeddings + 2 * columns_);
  Tile result{};
  result.begin = (tile - work.first_tile) * kTileRows;
  result.rows = std::min(kTileRows, work.field.distinct - result.begin);
  result.row = own;
  result.normalised = own + 2 * columns_;
  result.slope = result.normalised + normalised;
  result.embeddings = result.slope + slope;
  if (!kept(tile)) return result;
  result.normalised = tile_memory_ + tile * tile_floats_;
  if (gradients_) {
    result.slope = result.normalised + normalised;
    result.embeddings = result.slope + slope;
  }
  return result;
}

void Pass::centre(float* means) {
  const int64_t width = call_.width;
  const auto sizes = static_cast<int64_t>(call_.dims.size());
  if (!call_.training) {
    for (int64_t f = 0; f < call_.fields; ++f) {
      Work& work = works_[f];
      for (int64_t n = 0; n < sizes; ++n) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t at = (f * sizes + n) * width + j;
          work.shift.get()[n * work.field.padded_width + j] = call_.bias[at] - call_.mean[at];
        }
      }
    }
    return;
  }
  // The mean of the rows, in double: what rounding it to float loses goes into the shift.
  const int64_t total = works_.front().field.total;
  std::vector<double> parts(static_cast<size_t>(tiles_ * total), 0.0);
  parallel_for(call_.threads, tiles_, [&](int64_t tile, int) {
    const Work& work = work_of(tile);
    const int64_t begin = (tile - work.first_tile) * kTileRows;
    const int64_t end = std::min(begin + kTileRows, work.field.distinct);
    call_.kernels->sum_rows(work.field, begin, end, parts.data() + tile * total);
  });
  parallel_for(call_.threads, call_.fields, [&](int64_t f, int) {
    Work& work = works_[f];
    const std::vector<double> mean = merged(work, parts.data(), total);
    for (int64_t k = 0; k < total; ++k) work.centre[k] = static_cast<float>(mean[k]);
    for (int64_t n = 0, column = 0; n < sizes; column += call_.dims[n++]) {
      for (int64_t j = 0; j < width; ++j) {
        const float* projection = work.field.projection + j * total + column;
        double product = 0, rest = 0;
        for (int64_t k = 0; k < call_.dims[n]; ++k) {
          const double exact = mean[column + k];
          product += projection[k] * exact;
          rest += projection[k] * (exact - work.centre[column + k]);
        }
        const int64_t at = (f * sizes + n) * width + j;
        work.shift.get()[n * work.field.padded_width + j] = static_cast<float>(-rest);
        if (means != nullptr) means[at] = static_cast<float>(product + call_.bias[at]);
      }
    }
  });
}

void Pass::set_scale(Work& work, int64_t f) {
  const auto sizes = static_cast<int64_t>(call_.dims.size());
  for (int64_t n = 0; n < sizes; ++n) {
    for (int64_t j = 0; j < call_.width; ++j) {
      const float variance = call_.variance[(f * sizes + n) * call_.width + j];
      work.scale.get()[n * work.field.padded_width + j] = 1.0f / std::sqrt(variance + call_.eps);
    }
  }
}

}  // namespace

OutOfRange forward(const Call& call, float* output) {
  if (call.batch == 0) return {};
  const Kernels& kernels = *call.kernels;
  Pass pass(call, call.training ? kKeptForward : 0, false);
  if (const OutOfRange bad = pass.out_of_range(); bad.field >= 0) return bad;
  pass.centre(call.mean);
  const int64_t columns = pass.columns();
  const auto project = [&](const Field& field, const Tile& tile) {
    kernels.gather(field, tile);
    kernels.project(field, tile);
  };
  if (call.training) {
    const Floats squares = floats(pass.tiles() * columns);
    parallel_for(call.threads, pass.tiles(), [&](int64_t tile, int thread) {
      const Field& field = pass.work_of(tile).field;
      const Tile memory = pass.memory(tile, thread);
      project(field, memory);
      kernels.sum_squares(field, memory, squares.get() + tile * columns);
    });
    for (int64_t f = 0; f < call.fields; ++f) {
      const Work& work = pass.works()[f];
      const std::vector<double> variance = merged(work, squares.get(), columns);
      for (int64_t n = 0; n < work.field.sizes; ++n) {
        for (int64_t j = 0; j < call.width; ++j) {
          call.variance[(f * work.field.sizes + n) * call.width + j] =
              static_cast<float>(variance[n * work.field.padded_width + j]);
        }
      }
    }
  }
  for (int64_t f = 0; f < call.fields; ++f) {
    Work& work = pass.works()[f];
    pass.set_scale(work, f);
    work.field.output = output + f * call.width;
    work.field.output_stride = call.fields * call.width;
  }
  parallel_for(call.threads, pass.tiles(), [&](int64_t tile, int thread) {
    const Field& field = pass.work_of(tile).field;
    const Tile memory = pass.memory(tile, thread);
    if (!pass.kept(tile)) project(field, memory);
    kernels.mix(field, memory);
  });
  return {};
}

OutOfRange backward(const Call& call, const float* grad, int64_t grad_event_stride,
                    int64_t grad_field_stride, const Gradients& result) {
  if (call.batch == 0) return {};
  const Kernels& kernels = *call.kernels;
  const bool embeddings = result.rows != nullptr;
  const auto sizes = static_cast<int64_t>(call.dims.size());
  Pass pass(call, embeddings ? kKeptBackward : 0, embeddings);
  if (const OutOfRange bad = pass.out_of_range(); bad.field >= 0) return bad;
  pass.centre(nullptr);
  const int64_t columns = pass.columns();
  for (int64_t f = 0; f < call.fields; ++f) {
    Work& work = pass.works()[f];
    Field& field = work.field;
    pass.set_scale(work, f);
    field.grad = grad + f * grad_field_stride;
    field.grad_stride = grad_event_stride;
    field.weights_grad = result.weights + f * sizes;
    field.weights_grad_stride = call.fields * sizes;
  }
  const Floats sums = floats(embeddings ? pass.tiles() * 2 * columns : 0);
  const auto differentiate = [&](int64_t tile, const Tile& memory) {
    const Field& field = pass.work_of(tile).field;
    kernels.gather(field, memory);
    kernels.project(field, memory);
    float* part = embeddings ? sums.get() + tile * 2 * columns : nullptr;
    kernels.differentiate(field, memory, part);
  };
  parallel_for(call.threads, pass.tiles(),
               [&](int64_t tile, int thread) { differentiate(tile, pass.memory(tile, thread)); });
  if (!embeddings) return {};

  struct Chunk {
    int64_t field, begin, end;  // tiles
  };
  std::vector<Chunk> chunks;
  std::vector<int64_t> first_chunk;
  for (int64_t f = 0; f < call.fields; ++f) {
    Work& work = pass.works()[f];
    const std::vector<double> both = merged(work, sums.get(), 2 * columns);
    work.sum = floats(columns);
    work.product = floats(columns);
    std::copy_n(both.begin(), columns, work.sum.get());
    std::copy_n(both.begin() + columns, columns, work.product.get());
    work.field.sum = work.sum.get();
    work.field.product = work.product.get();
    work.by_total = floats(kernels.packed_by_total(work.field));
    work.field.by_total = work.by_total.get();
    kernels.pack_by_total(work.field);
    // Each chunk sums its own gradient of the projection: how many there are must not depend on
    // the number of threads.
    const int64_t count = std::min(kMostChunks, (work.tiles + 1) / 2);
    first_chunk.push_back(static_cast<int64_t>(chunks.size()));
    for (int64_t c = 0; c < count; ++c) {
      chunks.push_back({f, work.first_tile + work.tiles * c / count,
                        work.first_tile + work.tiles * (c + 1) / count});
    }
  }
  first_chunk.push_back(static_cast<int64_t>(chunks.size()));

  const Field& any = pass.works().front().field;
  const int64_t total = any.total, padded = any.padded_width;
  const Floats projections = zeros(static_cast<int64_t>(chunks.size()) * total * padded);
  parallel_for(call.threads, static_cast<int64_t>(chunks.size()), [&](int64_t c, int thread) {
    const Chunk& chunk = chunks[c];
    const Field& field = pass.works()[chunk.field].field;
    for (int64_t tile = chunk.begin; tile < chunk.end; ++tile) {
      const Tile memory = pass.memory(tile, thread);
      if (!pass.kept(tile)) differentiate(tile, memory);
      float* to = result.embeddings + (chunk.field * call.batch + memory.begin) * total;
      kernels.propagate(field, memory, to, projections.get() + c * total * padded);
    }
  });
  parallel_for(call.threads, call.fields, [&](int64_t f, int) {
    const Work& work = pass.works()[f];
    const int64_t used = work.field.distinct;
    int64_t* rows = result.rows + f * call.batch;
    std::copy_n(work.distinct.values.begin(), used, rows);
    std::fill(rows + used, rows + call.batch, work.distinct.values.back());
    std::fill(result.embeddings + (f * call.batch + used) * total,
              result.embeddings + (f + 1) * call.batch * total, 0.0f);
    for (int64_t n = 0; n < sizes; ++n) {
      for (int64_t j = 0; j < call.width; ++j) {
        const int64_t column = n * padded + j;
        result.bias[(f * sizes + n) * call.width + j] =
            call.training ? 0.0f : work.sum.get()[column] * work.scale.get()[column];
      }
    }
    float* sum = projections.get() + first_chunk[f] * total * padded;
    for (int64_t c = first_chunk[f] + 1; c < first_chunk[f + 1]; ++c) {
      const float* part = projections.get() + c * total * padded;
      for (int64_t i = 0; i < total * padded; ++i) sum[i] += part[i];
    }
    for (int64_t j = 0; j < call.width; ++j) {
      for (int64_t k = 0; k < total; ++k) {
        result.projection[(f * call.width + j) * total + k] = sum[k * padded + j];
      }
    }
  });
  return {};
}

}  // namespace autoemb::cpu
