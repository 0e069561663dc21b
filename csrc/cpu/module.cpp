// autoemb._cpu: the native CPU kernels over plain pointers. Tensors stay on Python's side
// (autoemb/ops/cpu.py), which checks and allocates: so nothing here needs torch's headers, one
// binary serves every torch, and building does not download one.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "soft_embedding.h"
#include "threads.h"

namespace py = pybind11;

namespace autoemb::cpu {
namespace {

using Address = uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

const Kernels* kernels_or_throw(const std::string& name) {
  const Kernels* found = kernels_named(name.c_str());
  if (found == nullptr) throw py::value_error("this CPU has no kernels named " + name);
  return found;
}

using TableArguments = std::vector<std::tuple<Address, int64_t, Address>>;

Call make_call(int64_t batch, int64_t width, std::vector<int64_t> dims,
               const TableArguments& tables, std::vector<int64_t> num_rows,
               std::tuple<Address, int64_t, int64_t> ids,
               std::tuple<Address, int64_t, int64_t, int64_t> weights, Address projection,
               Address bias, Address mean, Address variance, double eps, bool average,
               bool training, const std::string& kernels, int threads) {
  Call call{};
  call.batch = batch;
  call.fields = static_cast<int64_t>(num_rows.size());
  call.width = width;
  call.dims = std::move(dims);
  for (const auto& [base, stride, rows] : tables) {
    call.tables.push_back({pointer<const float>(base), stride, pointer<const int64_t>(rows)});
  }
  if (call.tables.size() != call.dims.size() * num_rows.size()) {
    throw py::value_error("expected a table for every field and size");
  }
  call.num_rows = std::move(num_rows);
  call.ids = pointer<const int64_t>(std::get<0>(ids));
  call.ids_event_stride = std::get<1>(ids);
  call.ids_field_stride = std::get<2>(ids);
  call.weights = pointer<const float>(std::get<0>(weights));
  call.weights_event_stride = std::get<1>(weights);
  call.weights_field_stride = std::get<2>(weights);
  call.weights_size_stride = std::get<3>(weights);
  call.projection = pointer<const float>(projection);
  call.bias = pointer<const float>(bias);
  call.mean = pointer<float>(mean);
  call.variance = pointer<float>(variance);
  call.eps = static_cast<float>(eps);
  call.average = average;
  call.training = training;
  call.kernels = kernels_or_throw(kernels);
  call.threads = std::max(threads, 1);
  return call;
}

// Each optimiser's step of rows, over threads; a row belongs to one of them.
void update(void (*step)(const Update&, int64_t, int64_t), const Update& u, int64_t num_rows,
            int64_t count, int threads) {
  constexpr int64_t kRowsAtOnce = 64;
  for (int64_t i = 0; i < count; ++i) {
    if (u.rows[i] < 0 || u.rows[i] >= num_rows) {
      throw py::index_error("index out of range: row " + std::to_string(u.rows[i]) +
                            " is not in [0, " + std::to_string(num_rows - 1) + "]");
    }
  }
  const int64_t parts = (count + kRowsAtOnce - 1) / kRowsAtOnce;
  const py::gil_scoped_release release;
  parallel_for(std::max(threads, 1), parts, [&](int64_t part, int) {
    step(u, part * kRowsAtOnce, std::min((part + 1) * kRowsAtOnce, count));
  });
}

Update rows_of(Address table, int64_t table_stride, Address rows, Address grad, int64_t width,
               double learning_rate) {
  Update u{};
  u.table = pointer<float>(table);
  u.table_stride = table_stride;
  u.rows = pointer<const int64_t>(rows);
  u.grad = pointer<const float>(grad);
  u.width = width;
  u.learning_rate = learning_rate;
  return u;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  std::vector<std::string> names;
  for (const char* name : {"avx512", "avx2", "baseline"}) {
    if (kernels_named(name) != nullptr) names.emplace_back(name);
  }
  m.attr("kernels") = names;  // that this CPU runs, the fastest first

  py::class_<Call>(m, "Call").def(
      py::init(&make_call), py::arg("batch"), py::arg("width"), py::arg("dims"), py::arg("tables"),
      py::arg("num_rows"), py::arg("ids"), py::arg("weights"), py::arg("projection"),
      py::arg("bias"), py::arg("mean"), py::arg("variance"), py::arg("eps"), py::arg("average"),
      py::arg("training"), py::arg("kernels"), py::arg("threads"));

  // Both return the field and the id that is out of range, or field -1.
  m.def("forward", [](Call& call, Address output, Address batch_mean, Address batch_variance) {
    const py::gil_scoped_release release;
    call.batch_mean = pointer<float>(batch_mean);
    call.batch_variance = pointer<float>(batch_variance);
    const OutOfRange bad = forward(call, pointer<float>(output));
    return std::make_pair(bad.field, bad.id);
  });
  m.def("backward",
        [](const Call& call, std::tuple<Address, int64_t, int64_t> grad, Address weights,
           Address rows, Address embeddings, Address projection, Address bias) {
          const py::gil_scoped_release release;
          const Gradients result{pointer<float>(weights), pointer<int64_t>(rows),
                                 pointer<float>(embeddings), pointer<float>(projection),
                                 pointer<float>(bias)};
          const OutOfRange bad = backward(call, pointer<const float>(std::get<0>(grad)),
                                          std::get<1>(grad), std::get<2>(grad), result);
          return std::make_pair(bad.field, bad.id);
        });
  m.def("tanh", [](Address x, Address y, int64_t count, const std::string& kernels) {
    kernels_or_throw(kernels)->tanh(pointer<const float>(x), pointer<float>(y), count);
  });

  m.def("update_sgd", [](Address table, int64_t num_rows, int64_t table_stride, Address rows,
                         int64_t count, Address grad, int64_t width, double learning_rate,
                         const std::string& kernels, int threads) {
    const Update u = rows_of(table, table_stride, rows, grad, width, learning_rate);
    update(kernels_or_throw(kernels)->update_sgd, u, num_rows, count, threads);
  });
  m.def("update_adagrad",
        [](Address table, int64_t num_rows, int64_t table_stride, Address rows, int64_t count,
           Address grad, int64_t width, double learning_rate, double eps, Address sum, bool rowwise,
           const std::string& kernels, int threads) {
          Update u = rows_of(table, table_stride, rows, grad, width, learning_rate);
          u.eps = eps;
          u.square = pointer<float>(sum);
          u.rowwise = rowwise;
          update(kernels_or_throw(kernels)->update_adagrad, u, num_rows, count, threads);
        });
  m.def("update_adam", [](Address table, int64_t num_rows, int64_t table_stride, Address rows,
                          int64_t count, Address grad, int64_t width, double learning_rate,
                          double beta_1, double beta_2, double eps, Address average, Address square,
                          Address steps, const std::string& kernels, int threads) {
    Update u = rows_of(table, table_stride, rows, grad, width, learning_rate);
    u.beta_1 = beta_1;
    u.beta_2 = beta_2;
    u.eps = eps;
    u.average = pointer<float>(average);
    u.square = pointer<float>(square);
    u.steps = pointer<int32_t>(steps);
    update(kernels_or_throw(kernels)->update_adam, u, num_rows, count, threads);
  });
}

}  // namespace autoemb::cpu
