#include "pass.h"

#include <cmath>
#include <numeric>

#include "threads.h"

namespace autoemb::cpu {
namespace {

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

// Each distinct id's part of the batch.
std::vector<float> shares(const Call& call, const Work& work) {
  std::vector<float> share;
  for (const int64_t count : work.distinct.counts) {
    share.push_back(static_cast<float>(count) / static_cast<float>(call.batch));
  }
  return share;
}

}  // namespace

Pass::Pass(const Call& call, float* embeddings, int64_t kept_bytes)
    : call_(call), embeddings_(embeddings), works_(static_cast<size_t>(call.fields)) {
  const auto sizes = static_cast<int64_t>(call.dims.size());
  const int64_t total = std::accumulate(call.dims.begin(), call.dims.end(), int64_t{0});
  const int64_t vector = call.kernels->vector;
  columns_ = sizes * up(call.width, vector);
  // Where values of a tile were, gradients of one size's rows come to lie, and it may be wider.
  tile_columns_ =
      std::max(columns_, up(*std::max_element(call.dims.begin(), call.dims.end()), vector));
  parallel_for(call.threads, call.fields, [&](int64_t f, int) { plan(call, f, works_[f]); });
  if (out_of_range().field >= 0) return;
  for (int64_t f = 0; f < call.fields; ++f) prepare(f, total);
  tile_floats_ = kTileRows * (tile_columns_ + columns_);
  kept_ = std::min(tiles_, kept_bytes / static_cast<int64_t>(sizeof(float)) / tile_floats_);
  thread_floats_ = up(2 * columns_ + tile_floats_ + kTileRows * total, 16);
  thread_memory_ = reused(call.threads * thread_floats_ + kept_ * tile_floats_);
  tile_memory_ = thread_memory_ + call.threads * thread_floats_;
  parallel_for(call.threads, call.fields,
               [&](int64_t f, int) { call.kernels->pack_by_width(works_[f].field); });
}

void Pass::prepare(int64_t f, int64_t total) {
  const auto sizes = static_cast<int64_t>(call_.dims.size());
  Work& work = works_[f];
  Field& field = work.field;
  field.distinct = static_cast<int64_t>(work.distinct.values.size());
  field.sizes = sizes;
  field.total = total;
  field.width = call_.width;
  field.padded_width = columns_ / sizes;
  field.dims = call_.dims.data();
  field.tables = call_.tables.data() + f * sizes;
  field.rows = work.distinct.values.data();
  field.order = work.order.data();
  field.starts = work.starts.data();
  field.projection = call_.projection + f * call_.width * total;
  if (call_.training || call_.batch_mean != nullptr) work.share = shares(call_, work);
  field.share = work.share.empty() ? nullptr : work.share.data();
  field.weights = call_.weights + f * call_.weights_field_stride;
  field.weights_event_stride = call_.weights_event_stride;
  field.weights_size_stride = call_.weights_size_stride;
  field.factor = call_.average ? 1.0f / static_cast<float>(sizes) : 1.0f;
  work.centre.assign(static_cast<size_t>(total), 0.0f);
  field.centre = work.centre.data();
  work.shift = zeros(columns_);
  work.scale = zeros(columns_);
  field.shift = work.shift.get();
  field.scale = work.scale.get();
  work.by_width = floats(call_.kernels->packed_by_width(field));
  field.by_width = work.by_width.get();
  work.first_tile = tiles_;
  work.tiles = (field.distinct + kTileRows - 1) / kTileRows;
  tiles_ += work.tiles;
  field_of_.insert(field_of_.end(), static_cast<size_t>(work.tiles), f);
}

Tile Pass::memory(int64_t tile, int thread) {
  const Work& work = work_of(tile);
  float* own = thread_memory_ + thread * thread_floats_;
  float* values = kept(tile) ? tile_memory_ + tile * tile_floats_ : own + 2 * columns_;
  Tile result{};
  result.begin = (tile - work.first_tile) * kTileRows;
  result.rows = std::min(kTileRows, work.field.distinct - result.begin);
  result.row = own;
  result.normalised = values;
  result.slope = values + kTileRows * tile_columns_;
  const int64_t total = work.field.total;
  result.embeddings = embeddings_ == nullptr
                          ? own + 2 * columns_ + tile_floats_
                          : embeddings_ + (field_of_[tile] * call_.batch + result.begin) * total;
  return result;
}

void Pass::embed(const Field& field, const Tile& memory) {
  // Where there is memory for all, they were gathered when the mean was taken.
  if (embeddings_ == nullptr || !call_.training) call_.kernels->gather(field, memory);
  if (call_.training) call_.kernels->centre(field, memory);
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
  parallel_for(call_.threads, tiles_, [&](int64_t tile, int thread) {
    const Field& field = work_of(tile).field;
    const Tile embeddings = memory(tile, thread);
    call_.kernels->gather(field, embeddings);
    call_.kernels->sum_rows(field, embeddings, parts.data() + tile * total);
  });
  parallel_for(call_.threads, call_.fields, [&](int64_t f, int) {
    Work& work = works_[f];
    std::vector<double> row = merged(work, parts.data(), total);
    std::vector<double> projected(static_cast<size_t>(columns_));
    const int64_t padded = work.field.padded_width;
    if (means != nullptr) {
      call_.kernels->project_exactly(work.field, row.data(), projected.data());
      for (int64_t n = 0; n < sizes; ++n) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t at = (f * sizes + n) * width + j;
          means[at] = static_cast<float>(projected[n * padded + j] + call_.bias[at]);
        }
      }
    }
    for (int64_t k = 0; k < total; ++k) {
      work.centre[k] = static_cast<float>(row[k]);
      row[k] -= work.centre[k];
    }
    call_.kernels->project_exactly(work.field, row.data(), projected.data());
    for (int64_t j = 0; j < columns_; ++j) {
      work.shift.get()[j] = static_cast<float>(-projected[j]);
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

}  // namespace autoemb::cpu
