// autoemb._cpu: the native CPU kernels over plain pointers. Tensors stay on Python's side
// (autoemb/ops/cpu.py), which checks and allocates: so nothing here needs torch's headers, one
// binary serves every torch, and building does not download one. Sizes and null pointers are
// checked here as well; that a pointer's memory is as large as they say cannot be.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
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

void expect(bool condition, const char* what) {
  if (!condition) throw py::value_error(std::string("expected ") + what);
}

using TableArguments = std::vector<std::tuple<Address, int64_t>>;

void check(const Call& call) {
  const auto positive = [](int64_t size) { return size > 0; };
  const auto present = [](const Table& table) { return table.base != nullptr; };
  expect(call.batch >= 0 && call.width > 0, "sizes that are not negative");
  expect(!call.dims.empty() && std::all_of(call.dims.begin(), call.dims.end(), positive),
         "dims that are positive");
  expect(call.tables.size() == call.dims.size() * call.num_rows.size(),
         "a table for every field and size");
  if (call.batch == 0 || call.fields == 0) return;
  expect(std::all_of(call.num_rows.begin(), call.num_rows.end(), positive) &&
             std::all_of(call.tables.begin(), call.tables.end(), present) && call.ids != nullptr &&
             call.weights != nullptr && call.projection != nullptr && call.bias != nullptr &&
             call.mean != nullptr && call.variance != nullptr,
         "addresses of all inputs");
}

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
  for (const auto& [base, stride] : tables) {
    call.tables.push_back({pointer<const float>(base), stride});
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
  check(call);
  return call;
}

// Both return the field and the id that is out of range, or field -1.
std::pair<int64_t, int64_t> run_forward(Call& call, Address output, Address batch_mean,
                                        Address batch_variance) {
  expect(output != 0 || call.batch == 0 || call.fields == 0, "an address of the output");
  expect((batch_mean == 0) == (batch_variance == 0), "addresses of both statistics or of none");
  const py::gil_scoped_release release;
  call.batch_mean = pointer<float>(batch_mean);
  call.batch_variance = pointer<float>(batch_variance);
  const OutOfRange bad = forward(call, pointer<float>(output));
  return {bad.field, bad.id};
}

std::pair<int64_t, int64_t> run_backward(const Call& call,
                                         std::tuple<Address, int64_t, int64_t> grad,
                                         Address weights, Address rows, Address embeddings,
                                         Address projection, Address bias) {
  const bool empty = call.batch == 0 || call.fields == 0;
  expect(empty || (std::get<0>(grad) != 0 && weights != 0), "addresses of both gradients");
  expect(empty || rows == 0 || (embeddings != 0 && projection != 0 && bias != 0),
         "addresses of all gradients");
  const py::gil_scoped_release release;
  const Gradients result{pointer<float>(weights), pointer<int64_t>(rows),
                         pointer<float>(embeddings), pointer<float>(projection),
                         pointer<float>(bias)};
  const OutOfRange bad = backward(call, pointer<const float>(std::get<0>(grad)), std::get<1>(grad),
                                  std::get<2>(grad), result);
  return {bad.field, bad.id};
}

// Each optimiser's step of rows, over threads; a row belongs to one of them.
void update(void (*step)(const Update&, int64_t, int64_t), const Update& u, int64_t num_rows,
            int64_t count, int threads) {
  constexpr int64_t kRowsAtOnce = 64;
  expect(count >= 0 && num_rows >= 0 && u.width >= 0, "sizes that are not negative");
  if (count == 0 || u.width == 0) return;
  expect(u.table != nullptr && u.rows != nullptr && u.grad != nullptr, "addresses of all inputs");
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

void bind_updates(py::module_& m) {
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
          expect(sum != 0 || count == 0, "an address of the sums");
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
    expect((average != 0 && square != 0 && steps != 0) || count == 0, "addresses of the state");
    update(kernels_or_throw(kernels)->update_adam, u, num_rows, count, threads);
  });
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
  m.def("forward", &run_forward);
  m.def("backward", &run_backward);
  m.def("tanh", [](Address x, Address y, int64_t count, const std::string& kernels) {
    expect(count >= 0 && ((x != 0 && y != 0) || count == 0), "addresses of both arrays");
    kernels_or_throw(kernels)->tanh(pointer<const float>(x), pointer<float>(y), count);
  });
  bind_updates(m);
}

}  // namespace autoemb::cpu
