// autoemb._cuda, and autoemb._emulated for tests without a GPU: the kernels as functions of plain
// addresses (tensor.data_ptr()) and a stream. Python allocates, by autoemb/ops/cuda.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "params.h"
#include "tiling.h"
#ifdef AUTOEMB_EMULATED
#include "../emulation/cuda.h"
#endif

namespace py = pybind11;

namespace autoemb {

namespace {

using Address = uintptr_t;
using StridedArray = std::tuple<Address, std::array<int64_t, 3>>;
using SlotTuple = std::tuple<Address, int64_t, int64_t>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Stream to_stream(Address address) { return at<void>(address); }

Strided strided(const StridedArray& array) {
  const auto& [address, strides] = array;
  return {at<const float>(address), strides[0], strides[1], strides[2]};
}

Mode to_mode(const std::string& name) {
  if (name == "ieee") return Mode::kIeee;
  if (name == "tf32") return Mode::kTf32;
  if (name == "bf16") return Mode::kBf16;
  throw py::value_error("mode must be ieee, tf32 or bf16, not " + name);
}

Batch make_batch(const std::vector<SlotTuple>& slots, Address memory, Address ids,
                 std::array<int64_t, 2> ids_strides, int events, int fields,
                 const std::vector<int>& dims, int width, Address projection, Address error,
                 Address stream) {
  if (dims.empty() || dims.size() > kMaxSizes) {
    throw py::value_error("the kernels take 1 to " + std::to_string(kMaxSizes) + " sizes, not " +
                          std::to_string(dims.size()));
  }
  if (slots.size() != dims.size() * static_cast<size_t>(fields)) {
    throw py::value_error("expected one slot per field and size");
  }
  Batch batch{};
  const auto slot = [&](size_t i) {
    const auto& [base, stride, num_rows] = slots[i];
    return Slot{at<const float>(base), stride, num_rows};
  };
  if (slots.size() <= kLocalSlots) {
    for (size_t i = 0; i < slots.size(); ++i) batch.slots.local[i] = slot(i);
  } else {
    batch.slots.memory = at<Slot>(memory);
    DescribeParams params{};
    params.memory = at<Slot>(memory);
    for (size_t first = 0; first < slots.size(); first += DescribeParams::kSlots) {
      params.first = static_cast<int>(first);
      params.count =
          static_cast<int>(std::min<size_t>(DescribeParams::kSlots, slots.size() - first));
      for (int i = 0; i < params.count; ++i) params.slots[i] = slot(first + static_cast<size_t>(i));
      describe(params, to_stream(stream));
    }
  }
  batch.ids = at<const int64_t>(ids);
  batch.ids_event = ids_strides[0];
  batch.ids_field = ids_strides[1];
  batch.projection = at<const float>(projection);
  batch.error = at<int64_t>(error);
  batch.events = events;
  batch.fields = fields;
  batch.sizes = static_cast<int>(dims.size());
  batch.width = width;
  for (size_t n = 0; n < dims.size(); ++n) {
    batch.dims[n] = dims[n];
    batch.total += dims[n];
  }
  check_shared_memory(batch);
  return batch;
}

// The backward pass behind the weights' gradient.
void gradients(const Batch& batch, const Normaliser& normaliser, const Plan& plan,
               const StridedArray& weights, const StridedArray& grad, Address windows_memory,
               const std::array<Address, 6>& sums_memory, const std::array<Address, 3>& totals,
               Address rows_grad, Address projection_grad, Address bias_grad, bool training,
               const std::string& mode_name, Address stream_address) {
  const Mode mode = to_mode(mode_name);
  const Stream stream = to_stream(stream_address);
  const Tiling tiling = distinct_tiling(batch);
  const Segments segments{plan.starts,           plan.order,    plan.used,
                          strided(weights),      strided(grad), at<const float>(windows_memory),
                          batch.events / kWindow};
  const Sums sums{at<float>(sums_memory[0]), at<float>(sums_memory[1]), at<float>(sums_memory[2]),
                  at<float>(sums_memory[3]), at<float>(sums_memory[4]), at<float>(sums_memory[5])};
  float *first = at<float>(totals[0]), *second = at<float>(totals[1]),
        *count = at<float>(totals[2]);
  windows({batch, segments, plan.inverse, at<float>(windows_memory)}, stream);
  reduce({batch, tiling, normaliser, segments, sums, training}, mode, stream);
  finalise({batch, tiling, normaliser, plan.used, sums, first, second, count,
            at<float>(projection_grad), at<float>(bias_grad), training},
           stream);
  rows_gradient(
      {batch, tiling, normaliser, segments, first, second, count, at<float>(rows_grad), training},
      mode, stream);
}

UpdateParams update(Address table, int64_t table_stride, Address rows, int num_rows, Address grad,
                    int width, double learning_rate, int64_t table_rows, Address error) {
  UpdateParams params{};
  params.table = at<float>(table);
  params.table_stride = table_stride;
  params.rows = at<const int64_t>(rows);
  params.num_rows = num_rows;
  params.grad = at<const float>(grad);
  params.width = width;
  params.learning_rate = learning_rate;
  params.table_rows = table_rows;
  params.error = at<int64_t>(error);
  return params;
}

void bind_structs(py::module_& m) {
  // Local: the GPU module and its emulation may be loaded side by side.
  py::class_<Batch>(m, "Batch", py::module_local())
      .def(py::init(&make_batch), py::arg("slots"), py::arg("memory"), py::arg("ids"),
           py::arg("ids_strides"), py::arg("events"), py::arg("fields"), py::arg("dims"),
           py::arg("width"), py::arg("projection"), py::arg("error"), py::arg("stream"))
      .def_property_readonly("groups", [](const Batch& b) { return event_tiling(b).groups; })
      .def_property_readonly("column_blocks",
                             [](const Batch& b) { return event_tiling(b).column_blocks; })
      .def_property_readonly("distinct_groups",
                             [](const Batch& b) { return distinct_tiling(b).groups; });

  py::class_<Normaliser>(m, "Normaliser", py::module_local())
      .def(py::init([](Address mean, Address bias, Address variance, Address shift, float eps,
                       float factor) {
             return Normaliser{at<const float>(mean),
                               at<const float>(bias),
                               at<const float>(variance),
                               at<const float>(shift),
                               eps,
                               factor};
           }),
           py::arg("mean"), py::arg("bias"), py::arg("variance"), py::arg("shift"), py::arg("eps"),
           py::arg("factor"));

  py::class_<Plan>(m, "Plan", py::module_local())
      .def(py::init([](Address rows, Address counts, Address starts, Address order, Address inverse,
                       Address used) {
             return Plan{at<int64_t>(rows),  at<int64_t>(counts),  at<int64_t>(starts),
                         at<int64_t>(order), at<int64_t>(inverse), at<int64_t>(used)};
           }),
           py::arg("rows"), py::arg("counts"), py::arg("starts"), py::arg("order"),
           py::arg("inverse"), py::arg("used"));
}

void bind_passes(py::module_& m) {
  m.def("statistics", [](const Batch& batch, const std::array<Address, 3>& strips, Address shift,
                         Address bias, Address centre, Address mean, Address variance,
                         const std::string& mode, Address stream) {
    const Tiling tiling = event_tiling(batch);
    const Strips moments{at<float>(strips[0]), at<float>(strips[1]), at<float>(strips[2])};
    statistics({batch, tiling, moments, at<float>(shift)}, to_mode(mode), to_stream(stream));
    merge({batch, moments, 2 * tiling.groups, at<float>(shift), at<float>(bias), at<float>(centre),
           at<float>(mean), at<float>(variance)},
          to_stream(stream));
  });
  m.def("recentre", [](const Batch& batch, Address shift, Address sums, Address counts,
                       Address centre, const std::string& mode, Address stream) {
    const RecentreParams params{
        batch,           event_tiling(batch).groups, to_mode(mode),    at<float>(shift),
        at<float>(sums), at<float>(counts),          at<float>(centre)};
    sum_rows(params, to_stream(stream));
    recentre(params, to_stream(stream));
  });
  m.def("normalise",
        [](const Batch& batch, const Normaliser& normaliser, const StridedArray& weights,
           Address output, const std::string& mode, Address stream) {
          normalise({batch, event_tiling(batch), normaliser, strided(weights), at<float>(output)},
                    to_mode(mode), to_stream(stream));
        });
  m.def("weights_gradient", [](const Batch& batch, const Normaliser& normaliser,
                               const StridedArray& grad, Address chunks, Address result,
                               const std::string& mode, Address stream) {
    const Tiling tiling = event_tiling(batch);
    const bool whole = tiling.column_blocks == 1;
    weights_gradient({batch, tiling, normaliser, strided(grad), at<float>(whole ? result : chunks)},
                     to_mode(mode), to_stream(stream));
    if (whole) return;
    const int64_t size = int64_t{batch.events} * batch.fields * batch.sizes;
    sum_chunks({at<float>(chunks), at<float>(result), size, tiling.column_blocks},
               to_stream(stream));
  });
  m.def("gradients", &gradients);
}

void bind_plans(py::module_& m) {
  m.def("plan", [](const Batch& batch, const Plan& distinct, Address stream) {
    plan({batch, distinct}, to_stream(stream));
  });
  m.def("checked_ids", [](const Batch& batch, Address result, std::array<int64_t, 2> strides,
                          int named, Address stream) {
    checked_ids({batch, at<int64_t>(result), strides[0], strides[1], named}, to_stream(stream));
  });
  m.def("plan_from_sorted", [](const Batch& batch, const Plan& distinct, Address sorted,
                               Address indices, Address stream) {
    plan_from_sorted({batch, distinct, at<int64_t>(sorted), at<int64_t>(indices)},
                     to_stream(stream));
  });
}

void bind_rows(py::module_& m) {
  py::class_<UpdateParams>(m, "Rows", py::module_local())
      .def(py::init(&update), py::arg("table"), py::arg("table_stride"), py::arg("rows"),
           py::arg("num_rows"), py::arg("grad"), py::arg("width"), py::arg("learning_rate"),
           py::arg("table_rows"), py::arg("error"));
  m.def("update_sgd",
        [](const UpdateParams& rows, Address stream) { update_sgd(rows, to_stream(stream)); });
  m.def("update_adagrad",
        [](UpdateParams rows, Address sum, bool rowwise, double eps, Address stream) {
          rows.sum = at<float>(sum);
          rows.rowwise = rowwise;
          rows.eps = eps;
          update_adagrad(rows, to_stream(stream));
        });
  m.def("update_adam", [](UpdateParams rows, Address average, Address square, Address step,
                          double beta_1, double beta_2, double eps, Address stream) {
    rows.average = at<float>(average);
    rows.square = at<float>(square);
    rows.step = at<int32_t>(step);
    rows.beta_1 = beta_1;
    rows.beta_2 = beta_2;
    rows.eps = eps;
    update_adam(rows, to_stream(stream));
  });
  m.def("record",
        [](const Plan& distinct, int events, Address loss, double decay, Address count,
           Address last_loss, Address mean_loss, int64_t num_rows, Address error, Address stream) {
          record({distinct, at<const float>(loss), decay, at<int64_t>(count), at<float>(last_loss),
                  at<float>(mean_loss), num_rows, at<int64_t>(error), events},
                 to_stream(stream));
        });
}

}  // namespace

PYBIND11_MODULE(AUTOEMB_MODULE, m) {
  m.attr("LOCAL_SLOTS") = kLocalSlots;
  m.attr("SLOT_BYTES") = sizeof(Slot);
  m.attr("MAX_SORTED") = kMaxSorted;
  m.attr("MAX_IDS") = kMaxIds - 1;
#ifdef AUTOEMB_EMULATED
  m.attr("device") = "cpu";
  m.def("set_seed", &emulation::set_seed, py::arg("seed"));
#else
  m.attr("device") = "cuda";
  m.attr("architectures") = py::cast(std::vector<std::string>{AUTOEMB_ARCHITECTURES});
#endif
  bind_structs(m);
  bind_passes(m);
  bind_plans(m);
  bind_rows(m);
}

}  // namespace autoemb
