// Where rows lie: slots, ids out of range, and the shift that keeps rounding small.
#pragma once

#include "device.cuh"

namespace autoemb {

__device__ inline const Slot& slot_of(const Batch& batch, int field, int size) {
  const int i = field * batch.sizes + size;
  return batch.slots.memory ? batch.slots.memory[i] : batch.slots.local[i];
}

__device__ inline int64_t id_of(const Batch& batch, int field, int event) {
  return batch.ids[event * batch.ids_event + field * batch.ids_field];
}

// Of a row that an optimiser or a counter was given: no event, and no field that it would know.
constexpr int kNoEvent = -1;

// The first error stays until the host has read it. The host polls the memory without waiting for
// the device, so the field is written last, behind a fence.
__device__ inline void report(int64_t* error, int field, int64_t id, int64_t num_rows, int event) {
  using Word = unsigned long long;
  if (atomicCAS(reinterpret_cast<Word*>(error), Word{0}, ~Word{0}) != 0) return;
  error[1] = id;
  error[2] = num_rows;
  error[3] = event;
  __threadfence_system();
  *static_cast<volatile int64_t*>(error) = field + 1;
}

// The row of an event's id, which is that id, or -1: out of range, which is reported.
__device__ inline int64_t row_of(const Batch& batch, const Slot& slot, int field, int event) {
  const int64_t row = id_of(batch, field, event);
  if (row >= 0 && row < slot.num_rows) return row;
  report(batch.error, field, row, slot.num_rows, event);
  return -1;
}

constexpr int kShiftEvents = 8;

// Mean of the rows of the batch's first events, column k of a size: taken from every row before it
// is rounded to tf32 or bf16 and before moments are summed, it keeps what a common offset of all
// rows would cost, and unlike the mean over the batch it is known before the first row is read.
// Summed in pairs: the mean of equal rows is that row exactly.
__device__ inline float shift_of(const Batch& batch, int field, int size, int k) {
  const Slot& slot = slot_of(batch, field, size);
  float rows[kShiftEvents];
  int count = 0;
#pragma unroll
  for (int i = 0; i < kShiftEvents; ++i) {
    const int64_t row = i < batch.events ? row_of(batch, slot, field, i) : -1;
    rows[i] = row >= 0 ? slot.base[row * slot.stride + k] : 0.0f;
    count += row >= 0;
  }
#pragma unroll
  for (int step = 1; step < kShiftEvents; step *= 2) {
#pragma unroll
    for (int i = 0; i < kShiftEvents; i += 2 * step) rows[i] += rows[i + step];
  }
  return count > 0 ? rows[0] / static_cast<float>(count) : 0.0f;
}

// Columns of the sizes side by side.
__device__ inline int offset_of(const Batch& batch, int size) {
  int offset = 0;
  for (int n = 0; n < size; ++n) offset += batch.dims[n];
  return offset;
}

__device__ inline int64_t statistic_index(const Batch& batch, int field, int size, int column) {
  return (static_cast<int64_t>(field) * batch.sizes + size) * batch.width + column;
}

// Shift of the rows, times the projection of one column; a whole warp computes it, each lane gets
// it. `shift` holds the columns of this size.
__device__ inline float project_shift(const Batch& batch, const float* shift, int field, int size,
                                      int column) {
  const float* projection = batch.projection +
                            (static_cast<int64_t>(field) * batch.width + column) * batch.total +
                            offset_of(batch, size);
  float sum = 0.0f;
  for (int k = lane(); k < batch.dims[size]; k += kWarp) sum += shift[k] * projection[k];
  return sum_lanes(sum, kWarp - 1);
}

}  // namespace autoemb
