// What follows from t = tanh(y) per event: the output (Eq. 7), and the gradient of its weights,
// which is all that a validation pass needs. Nothing of B x D per size goes to memory.
#include "tile.cuh"

namespace autoemb {
namespace {

__device__ float at(const Strided& x, int event, int field, int i) {
  return x.data[event * x.event + field * x.field + i * x.size];
}

// Grid: groups x column blocks x fields.
template <Mode kMode>
__global__ void __launch_bounds__(kThreads, 2)
    normalise_kernel(const __grid_constant__ NormaliseParams p) {
  const Batch& batch = p.batch;
  const int field = blockIdx.z, column = blockIdx.y * kTileColumns;
  const float* shift = p.normaliser.shift;
  if (shift) shift += static_cast<int64_t>(field) * batch.total;
  Tile output;
  project_events<kMode>(
      batch, p.tiling, field, blockIdx.x, column, shift, dynamic_shared<float>(),
      [&](int first, int n, const Tile& z, const bool* present) {
        const NormalisedColumns y(batch, p.normaliser, field, n, column);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = tile_row() + 8 * r;
          if (!present[row]) continue;
          const float weight = at(p.weights, first + row, field, n);
#pragma unroll
          for (int c = 0; c < Tile::kColumns; ++c) {
            output.values[r][c] += weight * tanhf(y(z.values[r][c], c));
          }
        }
        if (n + 1 < batch.sizes) return;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int event = first + tile_row() + 8 * r;
          if (event >= batch.events) continue;
          float* to = p.output + (static_cast<int64_t>(event) * batch.fields + field) * batch.width;
#pragma unroll
          for (int c = 0; c < Tile::kColumns; c += 2) {
            const int j = column + tile_column(c);
            const float2 pair = make_float2(output.values[r][c] * p.normaliser.factor,
                                            output.values[r][c + 1] * p.normaliser.factor);
            if (batch.width % 2 == 0 && j < batch.width) {
              *reinterpret_cast<float2*>(to + j) = pair;
            } else {
              if (j < batch.width) to[j] = pair.x;
              if (j + 1 < batch.width) to[j + 1] = pair.y;
            }
          }
        }
        output = Tile();
      });
}

// Grid: groups x column blocks x fields. <G_b, t_n> over this block's columns.
template <Mode kMode>
__global__ void __launch_bounds__(kThreads, 2)
    weights_gradient_kernel(const __grid_constant__ WeightsGradientParams p) {
  __shared__ float partial[kTileRows][kWarps / 2];
  const Batch& batch = p.batch;
  const int field = blockIdx.z, column = blockIdx.y * kTileColumns;
  const float* shift = p.normaliser.shift;
  if (shift) shift += static_cast<int64_t>(field) * batch.total;
  float* result =
      p.result + static_cast<int64_t>(blockIdx.y) * batch.events * batch.fields * batch.sizes;
  project_events<kMode>(
      batch, p.tiling, field, blockIdx.x, column, shift, dynamic_shared<float>(),
      [&](int first, int n, const Tile& z, const bool* present) {
        const NormalisedColumns y(batch, p.normaliser, field, n, column);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = tile_row() + 8 * r;
          float sum = 0.0f;
          if (present[row]) {
#pragma unroll
            for (int c = 0; c < Tile::kColumns; ++c) {
              const int j = column + tile_column(c);
              if (j >= batch.width) continue;
              sum += at(p.grad, first + row, field, j) * tanhf(y(z.values[r][c], c));
            }
          }
          sum = sum_lanes(sum, 1 | 2);
          if (lane() % 4 == 0) partial[row][warp() / 2] = sum;
        }
        __syncthreads();
        const int row = threadIdx.x;
        if (row < kTileRows && first + row < batch.events) {
          float sum = 0.0f;
          for (int w = 0; w < kWarps / 2; ++w) sum += partial[row][w];
          result[(static_cast<int64_t>(first + row) * batch.fields + field) * batch.sizes + n] =
              sum * p.normaliser.factor;
        }
        __syncthreads();
      });
}

// Partial results of blocks, summed in their order.
__global__ void __launch_bounds__(kThreads, 2)
    sum_chunks_kernel(const __grid_constant__ SumChunksParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.size) return;
  float sum = 0.0f;
  for (int chunk = 0; chunk < p.num_chunks; ++chunk) sum += p.chunks[chunk * p.size + i];
  p.result[i] = sum;
}

template <class Params>
void launch_tiles(const char* name, void (*kernel)(Params), const Params& params, Stream stream) {
  launch(name, kernel, dim3(params.tiling.groups, params.tiling.column_blocks, params.batch.fields),
         kThreads, sizeof(float) * (params.tiling.weight_floats + params.tiling.row_floats), stream,
         params);
}

}  // namespace

void normalise(const NormaliseParams& params, Mode mode, Stream stream) {
  const auto kernel = mode == Mode::kIeee   ? normalise_kernel<Mode::kIeee>
                      : mode == Mode::kTf32 ? normalise_kernel<Mode::kTf32>
                                            : normalise_kernel<Mode::kBf16>;
  launch_tiles("normalise", kernel, params, stream);
}

void weights_gradient(const WeightsGradientParams& params, Mode mode, Stream stream) {
  const auto kernel = mode == Mode::kIeee   ? weights_gradient_kernel<Mode::kIeee>
                      : mode == Mode::kTf32 ? weights_gradient_kernel<Mode::kTf32>
                                            : weights_gradient_kernel<Mode::kBf16>;
  launch_tiles("weights_gradient", kernel, params, stream);
}

void sum_chunks(const SumChunksParams& params, Stream stream) {
  const int64_t blocks = (params.size + kThreads - 1) / kThreads;
  launch("sum_chunks", sum_chunks_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream,
         params);
}

}  // namespace autoemb
