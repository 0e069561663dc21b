// Compiled once for each instruction set (CMakeLists.txt): AUTOEMB_TABLE names the table defined,
// AUTOEMB_NAME how users know it.
#include "tiles.h"
#include "updates.h"

namespace autoemb::cpu {

const Kernels AUTOEMB_TABLE = {
    AUTOEMB_NAME, kVector,       packed_by_width, packed_by_total, pack_by_width, pack_by_total,
    gather,       sum_rows,      centre,          project_exactly, project,       sum_squares,
    mix,          differentiate, propagate,       tanh_all,        update_sgd,    update_adagrad,
    update_adam,
};

}  // namespace autoemb::cpu
