// Optimisers on the distinct rows of a batch: the arithmetic of autoemb/ops/updates.py in one pass.
// A warp owns a row; nothing else of the table is read or written.
#include "storage.cuh"
#include "tiling.h"

namespace autoemb {
namespace {

constexpr int kUpdateThreads = 256;
constexpr int kRowsPerBlock = kUpdateThreads / kWarp;

// The row that this warp updates, or -1: padding repeats the row before it.
__device__ int64_t own_row(const UpdateParams& p, int& i) {
  i = blockIdx.x * kRowsPerBlock + warp();
  if (i >= p.num_rows || (i > 0 && p.rows[i] == p.rows[i - 1])) return -1;
  const int64_t row = p.rows[i];
  if (row >= 0 && row < p.table_rows) return row;
  if (lane() == 0) report(p.error, 0, row, p.table_rows, kNoEvent);
  return -1;
}

__global__ void __launch_bounds__(kUpdateThreads)
    sgd_kernel(const __grid_constant__ UpdateParams p) {
  int i;
  const int64_t row = own_row(p, i);
  if (row < 0) return;
  float* values = p.table + row * p.table_stride;
  const float* grad = p.grad + static_cast<int64_t>(i) * p.width;
  const float rate = static_cast<float>(p.learning_rate);
  for (int k = lane(); k < p.width; k += kWarp) values[k] -= rate * grad[k];
}

__global__ void __launch_bounds__(kUpdateThreads)
    adagrad_kernel(const __grid_constant__ UpdateParams p) {
  int i;
  const int64_t row = own_row(p, i);
  if (row < 0) return;
  float* values = p.table + row * p.table_stride;
  const float* grad = p.grad + static_cast<int64_t>(i) * p.width;
  const float rate = static_cast<float>(p.learning_rate), eps = static_cast<float>(p.eps);
  if (!p.rowwise) {
    float* totals = p.sum + row * p.width;
    for (int k = lane(); k < p.width; k += kWarp) {
      const float total = totals[k] + grad[k] * grad[k];
      totals[k] = total;
      values[k] -= rate * (grad[k] / (sqrtf(total) + eps));
    }
    return;
  }
  float squares = 0.0f;
  for (int k = lane(); k < p.width; k += kWarp) squares += grad[k] * grad[k];
  const float total = p.sum[row] + sum_lanes(squares, kWarp - 1) / static_cast<float>(p.width);
  __syncwarp();  // all lanes have read the sum
  if (lane() == 0) p.sum[row] = total;
  const float denominator = sqrtf(total) + eps;
  for (int k = lane(); k < p.width; k += kWarp) values[k] -= rate * (grad[k] / denominator);
}

__global__ void __launch_bounds__(kUpdateThreads)
    adam_kernel(const __grid_constant__ UpdateParams p) {
  int i;
  const int64_t row = own_row(p, i);
  if (row < 0) return;
  float* values = p.table + row * p.table_stride;
  float* averages = p.average + row * p.width;
  float* squares = p.square + row * p.width;
  const float* grad = p.grad + static_cast<int64_t>(i) * p.width;
  const int32_t step = p.step[row] + 1;
  __syncwarp();  // all lanes have read the step
  if (lane() == 0) p.step[row] = step;
  const float step_size = static_cast<float>(p.learning_rate / (1.0 - pow(p.beta_1, step)));
  const float correction = static_cast<float>(sqrt(1.0 - pow(p.beta_2, step)));
  const float keep = static_cast<float>(p.beta_2), add_1 = static_cast<float>(1.0 - p.beta_1),
              add_2 = static_cast<float>(1.0 - p.beta_2), eps = static_cast<float>(p.eps);
  for (int k = lane(); k < p.width; k += kWarp) {
    const float g = grad[k];
    const float average = averages[k] + add_1 * (g - averages[k]);
    const float square = keep * squares[k] + add_2 * g * g;
    averages[k] = average;
    squares[k] = square;
    values[k] -= average / (sqrtf(square) / correction + eps) * step_size;
  }
}

void launch_rows(const char* name, void (*kernel)(UpdateParams), const UpdateParams& params,
                 Stream stream) {
  launch(name, kernel, dim3(ceil_div(params.num_rows, kRowsPerBlock)), kUpdateThreads, 0, stream,
         params);
}

}  // namespace

void update_sgd(const UpdateParams& params, Stream stream) {
  launch_rows("update_sgd", sgd_kernel, params, stream);
}
void update_adagrad(const UpdateParams& params, Stream stream) {
  launch_rows("update_adagrad", adagrad_kernel, params, stream);
}
void update_adam(const UpdateParams& params, Stream stream) {
  launch_rows("update_adam", adam_kernel, params, stream);
}

}  // namespace autoemb
