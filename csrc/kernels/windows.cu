// Sums of weighted gradients over windows of 32 sorted events that share one id: the first of two
// stages for ids so hot that one thread must not walk through all of their events.
#include "segment.cuh"

namespace autoemb {
namespace {

// Grid: windows x fields.
__global__ void __launch_bounds__(kThreads)
    windows_kernel(const __grid_constant__ WindowsParams p) {
  __shared__ int64_t events[kWindow];
  const Batch& batch = p.batch;
  const int window = blockIdx.x, field = blockIdx.y;
  const int64_t* order = p.segments.order + static_cast<int64_t>(field) * batch.events;
  const int64_t* starts = p.segments.starts + static_cast<int64_t>(field) * (batch.events + 1);
  const int begin = window * kWindow, last = begin + kWindow - 1;
  if (last >= starts[p.segments.used[field]]) return;  // bad ids
  if (p.inverse[order[begin] * batch.fields + field] !=
      p.inverse[order[last] * batch.fields + field]) {
    return;
  }
  if (threadIdx.x < kWindow) events[threadIdx.x] = order[begin + threadIdx.x];
  __syncthreads();
  const Strided &weights = p.segments.weights, &grad = p.segments.grad;
  float* to = p.windows + (static_cast<int64_t>(field) * p.segments.num_windows + window) *
                              batch.sizes * batch.width;
  for (int i = threadIdx.x; i < batch.sizes * batch.width; i += kThreads) {
    const int n = i / batch.width, j = i % batch.width;
    float sum = 0.0f;
#pragma unroll 8
    for (int e = 0; e < kWindow; ++e) {
      sum += weights.data[events[e] * weights.event + field * weights.field + n * weights.size] *
             grad.data[events[e] * grad.event + field * grad.field + j * grad.size];
    }
    to[i] = sum;
  }
}

}  // namespace

void windows(const WindowsParams& params, Stream stream) {
  launch("windows", windows_kernel, dim3(params.segments.num_windows, params.batch.fields),
         kThreads, 0, stream, params);
}

}  // namespace autoemb
