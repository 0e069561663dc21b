#include "record.h"

namespace autoemb {

void record(const int64_t* rows, const float* loss, size_t num_events, double decay, int64_t* count,
            float* last_loss, float* mean_loss) {
  for (size_t event = 0; event < num_events; ++event) {
    const int64_t row = rows[event];
    const double value = loss[event];
    const double mean = count[row] == 0 ? value : decay * mean_loss[row] + (1.0 - decay) * value;
    mean_loss[row] = static_cast<float>(mean);
    last_loss[row] = loss[event];
    ++count[row];
  }
}

}  // namespace autoemb
