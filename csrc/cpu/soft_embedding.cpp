#include "soft_embedding.h"

#include <algorithm>

#include "pass.h"
#include "threads.h"

namespace autoemb::cpu {
namespace {

// Tiles that stay in work memory between two passes over them: those of 1,344 distinct ids at the
// default sizes. Beyond, a tile is computed again, so that no call needs more memory for large
// batches; but for the last size in the forward pass, for which the output has room.
constexpr int64_t kKept = int64_t{4} << 20;
// Parts in which the gradient of a field's projection is summed at most, and those of all fields.
constexpr int64_t kMostChunks = 12, kAllChunks = 24;

// All sizes of a field but the last, the widest, which takes most of the arithmetic.
Field without_last(const Field& field) {
  Field result = field;
  --result.sizes;
  return result;
}

// The rows of the last size wait for the statistics where the outputs of their ids' first events
// are to be: they are as wide.
void put_last(const Field& f, const Tile& tile) {
  const float* rows = tile.normalised + (f.sizes - 1) * kTileRows * f.padded_width;
  for (int64_t i = 0; i < tile.rows; ++i) {
    std::copy_n(rows + i * f.padded_width, f.width,
                f.output + f.order[f.starts[tile.begin + i]] * f.output_stride);
  }
}

void take_last(const Field& f, const Tile& tile) {
  float* rows = tile.normalised + (f.sizes - 1) * kTileRows * f.padded_width;
  for (int64_t i = 0; i < tile.rows; ++i) {
    std::copy_n(f.output + f.order[f.starts[tile.begin + i]] * f.output_stride, f.width,
                rows + i * f.padded_width);
  }
}

// The variance of a training batch, from the squares of its tiles [tiles, N, D'].
void store_variance(const Call& call, int64_t f, const Work& work, const float* squares) {
  const Field& field = work.field;
  const std::vector<double> variance = merged(work, squares, field.sizes * field.padded_width);
  for (int64_t n = 0; n < field.sizes; ++n) {
    for (int64_t j = 0; j < call.width; ++j) {
      call.variance[(f * field.sizes + n) * call.width + j] =
          static_cast<float>(variance[n * field.padded_width + j]);
    }
  }
}

// The batch's statistics from those of its tiles [tiles, N, D'], which are of values less the mean
// that they are normalised with.
void store_statistics(const Call& call, int64_t f, const Work& work, const float* means,
                      const float* squares) {
  const Field& field = work.field;
  std::vector<double> share(static_cast<size_t>(work.tiles), 0.0);
  for (int64_t u = 0; u < field.distinct; ++u) share[u / kTileRows] += field.share[u];
  for (int64_t n = 0; n < field.sizes; ++n) {
    for (int64_t j = 0; j < call.width; ++j) {
      const int64_t first = (work.first_tile * field.sizes + n) * field.padded_width + j;
      const int64_t stride = field.sizes * field.padded_width;
      double mean = 0, variance = 0;
      for (int64_t t = 0; t < work.tiles; ++t) mean += share[t] * means[first + t * stride];
      for (int64_t t = 0; t < work.tiles; ++t) {
        const double apart = means[first + t * stride] - mean;
        variance += squares[first + t * stride] + share[t] * apart * apart;
      }
      const int64_t at = (f * field.sizes + n) * call.width + j;
      call.batch_mean[at] = static_cast<float>(call.mean[at] + mean);
      call.batch_variance[at] = static_cast<float>(variance);
    }
  }
}

// Tiles of one field, over which one thread sums the gradient of the projection.
struct Chunk {
  int64_t field, begin, end;
};

// The chunks of all fields. How many there are must not depend on the number of threads.
std::vector<Chunk> chunks_of(const std::vector<Work>& works) {
  std::vector<Chunk> chunks;
  const int64_t most =
      std::clamp(kAllChunks / static_cast<int64_t>(works.size()), int64_t{1}, kMostChunks);
  for (size_t f = 0; f < works.size(); ++f) {
    const Work& work = works[f];
    const int64_t count = std::min(most, (work.tiles + 1) / 2);
    for (int64_t c = 0; c < count; ++c) {
      chunks.push_back({static_cast<int64_t>(f), work.first_tile + work.tiles * c / count,
                        work.first_tile + work.tiles * (c + 1) / count});
    }
  }
  return chunks;
}

// The sums of dy and of dy * y over the batch, from those of its tiles [tiles, 2, N, D'].
void store_sums(const float* sums, int64_t columns, Work& work) {
  const std::vector<double> both = merged(work, sums, 2 * columns);
  work.sum = floats(columns);
  work.product = floats(columns);
  std::copy_n(both.begin(), columns, work.sum.get());
  std::copy_n(both.begin() + columns, columns, work.product.get());
  work.field.sum = work.sum.get();
  work.field.product = work.product.get();
}

// A field's rows with their padding, and the gradient of its bias.
void store_rows(const Call& call, int64_t f, const Work& work, const Gradients& result) {
  const Field& field = work.field;
  const int64_t used = field.distinct, total = field.total;
  int64_t* rows = result.rows + f * call.batch;
  std::copy_n(work.distinct.values.begin(), used, rows);
  std::fill(rows + used, rows + call.batch, work.distinct.values.back());
  std::fill(result.embeddings + (f * call.batch + used) * total,
            result.embeddings + (f + 1) * call.batch * total, 0.0f);
  for (int64_t n = 0; n < field.sizes; ++n) {
    for (int64_t j = 0; j < call.width; ++j) {
      const int64_t column = n * field.padded_width + j;
      result.bias[(f * field.sizes + n) * call.width + j] =
          call.training ? 0.0f : work.sum.get()[column] * work.scale.get()[column];
    }
  }
}

// The gradient of a field's projection: its chunks' [chunks, S, D'] added in their order.
void store_projection(const Field& field, int64_t f, float* parts, int64_t chunks,
                      const Gradients& result) {
  const int64_t size = field.total * field.padded_width;
  for (int64_t c = 1; c < chunks; ++c) {
    for (int64_t i = 0; i < size; ++i) parts[i] += parts[c * size + i];
  }
  // A square of both matrices at a time: row by row of one, each float of the other would be a line
  // of memory of its own.
  constexpr int64_t kSquare = 16;
  for (int64_t j = 0; j < field.width; j += kSquare) {
    for (int64_t k = 0; k < field.total; k += kSquare) {
      const int64_t last_j = std::min(j + kSquare, field.width);
      const int64_t last_k = std::min(k + kSquare, field.total);
      for (int64_t row = j; row < last_j; ++row) {
        float* to = result.projection + (f * field.width + row) * field.total;
        for (int64_t at = k; at < last_k; ++at) to[at] = parts[at * field.padded_width + row];
      }
    }
  }
}

}  // namespace

OutOfRange forward(const Call& call, float* output) {
  if (call.batch == 0) return {};
  const Kernels& kernels = *call.kernels;
  Pass pass(call, nullptr, call.training ? kKept : 0);
  if (const OutOfRange bad = pass.out_of_range(); bad.field >= 0) return bad;
  pass.centre(call.mean);
  for (int64_t f = 0; f < call.fields; ++f) {
    pass.works()[f].field.output = output + f * call.width;
    pass.works()[f].field.output_stride = call.fields * call.width;
  }
  const int64_t columns = pass.columns();
  const bool statistics = call.batch_mean != nullptr;
  const Floats squares = floats(call.training || statistics ? pass.tiles() * columns : 0);
  const Floats means = floats(statistics ? pass.tiles() * columns : 0);
  if (call.training) {
    parallel_for(call.threads, pass.tiles(), [&](int64_t tile, int thread) {
      const Field& field = pass.work_of(tile).field;
      const Tile memory = pass.memory(tile, thread);
      pass.embed(field, memory);
      kernels.project(field, memory);
      kernels.sum_squares(field, memory, nullptr, squares.get() + tile * columns);
      if (!pass.kept(tile)) put_last(field, memory);
    });
    for (int64_t f = 0; f < call.fields; ++f) {
      store_variance(call, f, pass.works()[f], squares.get());
    }
  }
  for (int64_t f = 0; f < call.fields; ++f) pass.set_scale(pass.works()[f], f);
  parallel_for(call.threads, pass.tiles(), [&](int64_t tile, int thread) {
    const Field& field = pass.work_of(tile).field;
    const Tile memory = pass.memory(tile, thread);
    if (!pass.kept(tile)) {
      const Field missing = call.training ? without_last(field) : field;
      pass.embed(missing, memory);
      kernels.project(missing, memory);
      if (call.training) take_last(field, memory);
    }
    if (statistics) {
      kernels.sum_squares(field, memory, means.get() + tile * columns,
                          squares.get() + tile * columns);
    }
    kernels.mix(field, memory);
  });
  for (int64_t f = 0; statistics && f < call.fields; ++f) {
    store_statistics(call, f, pass.works()[f], means.get(), squares.get());
  }
  return {};
}

OutOfRange backward(const Call& call, const float* grad, int64_t grad_event_stride,
                    int64_t grad_field_stride, const Gradients& result) {
  if (call.batch == 0) return {};
  const Kernels& kernels = *call.kernels;
  const bool embeddings = result.rows != nullptr;
  // Statistics of the batch pass gradients from every tile to every row: two passes. Others do not.
  const bool twice = embeddings && call.training;
  const auto sizes = static_cast<int64_t>(call.dims.size());
  Pass pass(call, embeddings ? result.embeddings : nullptr, twice ? kKept : 0);
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
    if (!embeddings) continue;
    work.by_total = floats(kernels.packed_by_total(field));
    field.by_total = work.by_total.get();
    kernels.pack_by_total(field);
  }
  const Floats sums = floats(embeddings ? pass.tiles() * 2 * columns : 0);
  const auto differentiate = [&](int64_t tile, const Tile& memory) {
    const Field& field = pass.work_of(tile).field;
    kernels.project(field, memory);
    float* part = embeddings ? sums.get() + tile * 2 * columns : nullptr;
    kernels.differentiate(field, memory, part);
  };
  const auto begin = [&](int64_t tile, const Tile& memory) {
    pass.embed(pass.work_of(tile).field, memory);
    differentiate(tile, memory);
  };
  if (twice || !embeddings) {
    parallel_for(call.threads, pass.tiles(),
                 [&](int64_t tile, int thread) { begin(tile, pass.memory(tile, thread)); });
  }
  if (!embeddings) return {};

  for (Work& work : pass.works()) {
    if (twice) store_sums(sums.get(), columns, work);
  }
  const std::vector<Chunk> chunks = chunks_of(pass.works());
  const auto count = static_cast<int64_t>(chunks.size());
  const Field& any = pass.works().front().field;
  const int64_t size = any.total * any.padded_width;
  const Floats projections = zeros(count * size);
  parallel_for(call.threads, count, [&](int64_t c, int thread) {
    const Field& field = pass.works()[chunks[c].field].field;
    for (int64_t tile = chunks[c].begin; tile < chunks[c].end; ++tile) {
      const Tile memory = pass.memory(tile, thread);
      if (!twice) {
        begin(tile, memory);
      } else if (!pass.kept(tile)) {
        differentiate(tile, memory);
      }
      kernels.propagate(field, memory, projections.get() + c * size);
    }
  });
  parallel_for(call.threads, call.fields, [&](int64_t f, int) {
    Work& work = pass.works()[f];
    if (!twice) store_sums(sums.get(), columns, work);
    const auto of_field = [&](const Chunk& chunk) { return chunk.field == f; };
    const auto first = std::find_if(chunks.begin(), chunks.end(), of_field);
    store_rows(call, f, work, result);
    store_projection(work.field, f, projections.get() + (first - chunks.begin()) * size,
                     std::count_if(chunks.begin(), chunks.end(), of_field), result);
  });
  return {};
}

}  // namespace autoemb::cpu
