// The distinct ids of every field in a batch: sorted in shared memory by one block a field where
// they fit, otherwise from keys that a library sorted. Their number never leaves the device.
#include "storage.cuh"
#include "tiling.h"

namespace autoemb {
namespace {

constexpr int kPlanThreads = 1024;
constexpr int64_t kNoId = INT64_MAX;

// The id, or kNoId where it is out of range, which is reported for the field `field + named`.
__device__ int64_t checked_id(const Batch& batch, int field, int event, int named = 0) {
  const Slot& slot = slot_of(batch, field, 0);
  const int64_t id = id_of(batch, field, event);
  if (id >= 0 && id < slot.num_rows) return id;
  report(batch.error, field + named, id, slot.num_rows, event);
  return kNoId;
}

// Sum over the threads before this one and this one, of blocks of kPlanThreads.
__device__ int inclusive_sum(int value, int* scratch) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, distance);
    if (lane() >= distance) value += before;
  }
  if (lane() == kWarp - 1) scratch[warp()] = value;
  __syncthreads();
  int sum = 0;
  for (int w = 0; w < warp(); ++w) sum += scratch[w];
  return value + sum;
}

// One block a field; bitonic sort of (id, position), so it is stable.
__global__ void __launch_bounds__(kPlanThreads) plan_kernel(const __grid_constant__ PlanParams p) {
  const Batch& batch = p.batch;
  const int field = blockIdx.x, events = batch.events;
  int size = 1;
  while (size < events) size *= 2;
  int64_t* keys = dynamic_shared<int64_t>();
  int* starts = reinterpret_cast<int*>(keys + size);
  int* scratch = starts + size + 1;
  int* totals = scratch + kPlanThreads / kWarp;  // distinct ids, events with a valid id

  for (int i = threadIdx.x; i < size; i += kPlanThreads) {
    const int64_t id = i < events ? checked_id(batch, field, i) : kNoId;
    keys[i] = id == kNoId ? (kMaxIds - 1) << kPositionBits | i : id << kPositionBits | i;
  }
  for (int width = 2; width <= size; width *= 2) {
    for (int distance = width / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < size / 2; pair += kPlanThreads) {
        const int low = pair / distance * 2 * distance + pair % distance, high = low + distance;
        const int64_t a = keys[low], b = keys[high];
        if ((a > b) == ((low & width) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  }
  __syncthreads();

  // Every thread takes two neighbours, so that threads before it hold what lies before.
  const int first = 2 * static_cast<int>(threadIdx.x);
  const auto id_at = [&](int i) { return keys[i] >> kPositionBits; };
  const auto valid = [&](int i) { return i < events && id_at(i) != kMaxIds - 1; };
  const auto head = [&](int i) { return valid(i) && (i == 0 || id_at(i) != id_at(i - 1)); };
  const int heads = head(first) + head(first + 1);
  int index = inclusive_sum(heads, scratch) - heads - 1;  // of the id before
  if (threadIdx.x == kPlanThreads - 1) totals[0] = index + 1 + heads;
  const int64_t at = static_cast<int64_t>(field) * events;
  for (int i = first; i < min(first + 2, events); ++i) {
    index += head(i);
    if (head(i)) starts[index] = i;
    if (valid(i) && !valid(i + 1)) totals[1] = i + 1;
    if (i == 0 && !valid(0)) totals[1] = 0;
    const int event = static_cast<int>(keys[i] & (kMaxSorted - 1));
    p.plan.order[at + i] = event;
    p.plan.inverse[static_cast<int64_t>(event) * batch.fields + field] = valid(i) ? index : 0;
  }
  __syncthreads();

  const int used = totals[0], num_valid = totals[1];
  if (threadIdx.x == 0) p.plan.used[field] = used;
  int64_t* all_starts = p.plan.starts + static_cast<int64_t>(field) * (events + 1);
  for (int i = threadIdx.x; i <= events; i += kPlanThreads) {
    const int start = i < used ? starts[i] : num_valid;
    all_starts[i] = start;
    if (i == events) continue;
    const int end = i + 1 < used ? starts[i + 1] : num_valid;
    p.plan.counts[at + i] = i < used ? end - start : 0;
    p.plan.rows[at + i] = used > 0 ? id_at(starts[min(i, used - 1)]) : 0;
  }
}

constexpr int kScatterThreads = 256;

__global__ void __launch_bounds__(kScatterThreads)
    checked_ids_kernel(const __grid_constant__ CheckedIdsParams p) {
  const int event = blockIdx.x * kScatterThreads + threadIdx.x, field = blockIdx.y;
  if (event >= p.batch.events) return;
  p.result[event * p.result_event + field * p.result_field] =
      checked_id(p.batch, field, event, p.named);
}

// Position of the first number that is not below `value` in an ascending array.
__device__ int lower_bound(const int64_t* values, int size, int64_t value) {
  int begin = 0;
  while (size > 0) {
    const int half = size / 2;
    if (values[begin + half] < value) {
      begin += half + 1;
      size -= half + 1;
    } else {
      size = half;
    }
  }
  return begin;
}

// Thread i writes what lies at position i: of events, and of distinct ids.
__global__ void __launch_bounds__(kScatterThreads)
    plan_from_sorted_kernel(const __grid_constant__ SortedParams p) {
  const int i = blockIdx.x * kScatterThreads + threadIdx.x, field = blockIdx.y;
  const int events = p.batch.events;
  if (i > events) return;
  const int64_t at = static_cast<int64_t>(field) * events;
  const int64_t* keys = p.keys + at;
  const int64_t* indices = p.indices + at;
  const int num_valid = lower_bound(keys, events, kNoId);
  const int used = num_valid > 0 ? static_cast<int>(indices[num_valid - 1]) + 1 : 0;
  int64_t* starts = p.plan.starts + static_cast<int64_t>(field) * (events + 1);
  const int start = i < used ? lower_bound(indices, num_valid, i) : num_valid;
  starts[i] = start;
  if (i == events) {
    p.plan.used[field] = used;
    return;
  }
  const int end = i < used ? lower_bound(indices, num_valid, i + 1) : start;
  p.plan.counts[at + i] = end - start;
  p.plan.rows[at + i] = used > 0 ? keys[i < used ? start : num_valid - 1] : 0;
  p.plan.inverse[p.plan.order[at + i] * p.batch.fields + field] = i < num_valid ? indices[i] : 0;
}

}  // namespace

void plan(const PlanParams& params, Stream stream) {
  int size = 1;
  while (size < params.batch.events) size *= 2;
  if (size > kMaxSorted) throw std::runtime_error("autoemb kernel plan: too many events");
  const size_t shared =
      sizeof(int64_t) * size + sizeof(int) * (size + 1 + kPlanThreads / kWarp + 2);
  launch("plan", plan_kernel, dim3(params.batch.fields), kPlanThreads, shared, stream, params);
}

void checked_ids(const CheckedIdsParams& params, Stream stream) {
  launch("checked_ids", checked_ids_kernel,
         dim3(ceil_div(params.batch.events, kScatterThreads), params.batch.fields), kScatterThreads,
         0, stream, params);
}

void plan_from_sorted(const SortedParams& params, Stream stream) {
  launch("plan_from_sorted", plan_from_sorted_kernel,
         dim3(ceil_div(params.batch.events + 1, kScatterThreads), params.batch.fields),
         kScatterThreads, 0, stream, params);
}

}  // namespace autoemb
