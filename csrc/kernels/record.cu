// The counters of the streaming loop (csrc/runtime/record.cpp) on the device, to the same bit: a
// warp owns a distinct id and goes through its events in their order.
#include "storage.cuh"
#include "tiling.h"

namespace autoemb {
namespace {

constexpr int kRecordThreads = 256;
constexpr int kIdsPerBlock = kRecordThreads / kWarp;

__global__ void __launch_bounds__(kRecordThreads)
    record_kernel(const __grid_constant__ RecordParams p) {
  const int i = blockIdx.x * kIdsPerBlock + warp();
  if (i >= p.events || p.plan.counts[i] == 0) return;
  const int64_t row = p.plan.rows[i], begin = p.plan.starts[i], end = p.plan.starts[i + 1];
  if (row < 0 || row >= p.num_rows) {
    if (lane() == 0) report(p.error, 0, row, p.num_rows, kNoEvent);
    return;
  }
  const int64_t count = p.count[row];
  float mean = p.mean_loss[row], loss = 0.0f;
  for (int64_t first = begin; first < end; first += kWarp) {
    const int here = static_cast<int>(min(end - first, int64_t{kWarp}));
    const float mine = lane() < here ? p.loss[p.plan.order[first + lane()]] : 0.0f;
    for (int e = 0; e < here; ++e) {
      loss = __shfl_sync(kAllLanes, mine, e);
      // Rounded after every operation: a fused multiply-add would end in another last bit.
      const double next = __dadd_rn(__dmul_rn(p.decay, mean), __dmul_rn(1.0 - p.decay, loss));
      mean = count == 0 && first == begin && e == 0 ? loss : static_cast<float>(next);
    }
  }
  __syncwarp();  // all lanes have read the counters
  if (lane() != 0) return;
  p.count[row] = count + (end - begin);
  p.last_loss[row] = loss;
  p.mean_loss[row] = mean;
}

}  // namespace

void record(const RecordParams& params, Stream stream) {
  launch("record", record_kernel, dim3(ceil_div(params.events, kIdsPerBlock)), kRecordThreads, 0,
         stream, params);
}

}  // namespace autoemb
