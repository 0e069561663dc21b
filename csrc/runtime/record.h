// What the streaming loop remembers of every row: how often it was seen, and how well it was
// predicted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace autoemb {

// In the order of the events: mean_loss[r] = decay * mean_loss[r] + (1 - decay) * loss (at the
// first sight of r: loss), last_loss[r] = loss, count[r] += 1. Every row must be one of the
// tables'.
void record(const int64_t* rows, const float* loss, size_t num_events, double decay, int64_t* count,
            float* last_loss, float* mean_loss);

}  // namespace autoemb
