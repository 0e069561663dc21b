// Slots that do not fit in the parameters of a kernel, written to device memory by a kernel that
// has them in its own: unlike a copy from the host it may be captured in a CUDA graph.
#include "device.cuh"
#include "tiling.h"

namespace autoemb {
namespace {

constexpr int kDescribeThreads = 256;

__global__ void describe_kernel(const __grid_constant__ DescribeParams p) {
  const int i = blockIdx.x * kDescribeThreads + threadIdx.x;
  if (i < p.count) p.memory[p.first + i] = p.slots[i];
}

}  // namespace

void describe(const DescribeParams& params, Stream stream) {
  launch("describe", describe_kernel, dim3(ceil_div(params.count, kDescribeThreads)),
         kDescribeThreads, 0, stream, params);
}

}  // namespace autoemb
