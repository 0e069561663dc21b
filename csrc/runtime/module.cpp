// autoemb._runtime: checks of the arguments, and the way between numpy and plain pointers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "distinct.h"
#include "id_table.h"
#include "record.h"
#include "traces.h"

namespace py = pybind11;

namespace autoemb {
namespace {

// The numbers of a plain array of so many dimensions, which may be written where T is not const.
template <class T>
T* numbers(const py::array& array, const char* name, int dimensions) {
  using Element = std::remove_const_t<T>;
  constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  constexpr int kNeeded =
      std::is_const_v<T> ? kPlain : kPlain | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  if (!py::isinstance<py::array_t<Element>>(array) || array.ndim() != dimensions ||
      (array.flags() & kNeeded) != kNeeded) {
    const std::string type = py::str(static_cast<py::handle>(py::dtype::of<Element>()));
    throw py::type_error(std::string(name) + " must be a contiguous " +
                         (std::is_const_v<T> ? "" : "writable ") + std::to_string(dimensions) +
                         "-D array of " + type);
  }
  return static_cast<T*>(const_cast<void*>(array.data()));
}

template <class T>
struct Vector {
  T* data;
  size_t size;
};

template <class T>
Vector<T> vector(const py::array& array, const char* name) {
  return {numbers<T>(array, name, 1), static_cast<size_t>(array.size())};
}

template <class T>
struct Matrix {
  T* data;
  size_t rows;
  size_t columns;
};

template <class T>
Matrix<T> matrix(const py::array& array, const char* name) {
  return {numbers<T>(array, name, 2), static_cast<size_t>(array.shape(0)),
          static_cast<size_t>(array.shape(1))};
}

void check_rows(const Vector<const int64_t>& rows, size_t num_rows) {
  for (size_t i = 0; i < rows.size; ++i) {
    if (static_cast<uint64_t>(rows.data[i]) >= num_rows) {  // negative ones become huge
      throw py::index_error("rows[" + std::to_string(i) + "] is " + std::to_string(rows.data[i]) +
                            "; the tables have " + std::to_string(num_rows) + " rows");
    }
  }
}

py::array_t<int64_t> to_array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<int64_t> empty_array(size_t size) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(size));
}

// The tables hold the GIL: it is their lock, and 500 ids take some microseconds.
py::array_t<int64_t> integer_rows(Int64IdTable& table, const py::array& array, bool insert) {
  const auto ids = vector<const int64_t>(array, "ids");
  auto rows = empty_array(ids.size);
  int64_t* out = rows.mutable_data();
  for (size_t i = 0; i < ids.size; ++i) out[i] = table.row(ids.data[i], insert);
  return rows;
}

py::array_t<int64_t> string_rows(StringIdTable& table, const py::list& list, bool insert) {
  // All checks come before the first insertion: a bad id leaves the table as it was.
  std::vector<std::pair<std::string_view, uint64_t>> ids;
  ids.reserve(list.size());
  for (const py::handle id : list) {
    if (!PyUnicode_Check(id.ptr())) {
      throw py::type_error("ids[" + std::to_string(ids.size()) + "] must be a str, not " +
                           Py_TYPE(id.ptr())->tp_name);
    }
    py::ssize_t size = 0;
    const char* utf8 = PyUnicode_AsUTF8AndSize(id.ptr(), &size);  // cached in the str itself
    if (utf8 == nullptr) throw py::error_already_set();
    // Python's own hash: SipHash with a secret, computed once in the life of a str.
    const auto hash = static_cast<uint64_t>(PyObject_Hash(id.ptr()));
    ids.emplace_back(std::string_view(utf8, static_cast<size_t>(size)), hash);
  }
  auto rows = empty_array(ids.size());
  int64_t* out = rows.mutable_data();
  for (const auto& [id, hash] : ids) *out++ = table.row(id, hash, insert);
  return rows;
}

py::list string_ids(const StringIdTable& table) {
  py::list ids(table.size());
  for (size_t row = 0; row < table.size(); ++row) {
    const std::string_view id = table.id(row);
    ids[row] = py::str(id.data(), id.size());
  }
  return ids;
}

void record_checked(const py::array& rows_array, const py::array& loss_array, double decay,
                    const py::array& count_array, const py::array& last_array,
                    const py::array& mean_array) {
  const auto rows = vector<const int64_t>(rows_array, "rows");
  const auto loss = vector<const float>(loss_array, "loss");
  const auto count = vector<int64_t>(count_array, "count");
  const auto last_loss = vector<float>(last_array, "last_loss");
  const auto mean_loss = vector<float>(mean_array, "mean_loss");
  if (loss.size != rows.size) throw py::value_error("loss must be as long as rows");
  if (last_loss.size != count.size || mean_loss.size != count.size) {
    throw py::value_error("last_loss and mean_loss must be as long as count");
  }
  check_rows(rows, count.size);
  record(rows.data, loss.data, rows.size, decay, count.data, last_loss.data, mean_loss.data);
}

void forgetting_sums_checked(const py::array& rows_array, const py::array& values_array,
                             double decay, const py::array& sums_array) {
  const auto rows = vector<const int64_t>(rows_array, "rows");
  const auto values = matrix<const float>(values_array, "values");
  const auto sums = matrix<float>(sums_array, "sums");
  if (values.rows != rows.size) throw py::value_error("values must be as long as rows");
  if (values.columns != sums.columns) throw py::value_error("values must be as wide as sums");
  check_rows(rows, sums.rows);
  forgetting_sums(rows.data, values.data, rows.size, sums.columns, decay, sums.data);
}

void learn_factors_checked(const std::vector<py::array>& table_arrays,
                           const std::vector<py::array>& rows_arrays,
                           const py::array& residual_array, const py::array& weight_array,
                           double rate, double penalty) {
  const auto residual = vector<const float>(residual_array, "residual");
  const auto weight = vector<const float>(weight_array, "weight");
  if (weight.size != residual.size) throw py::value_error("weight must be as long as residual");
  if (rows_arrays.size() != table_arrays.size()) {
    throw py::value_error("rows must be as many as tables");
  }
  std::vector<FactorColumn> columns;
  size_t width = 0;
  for (size_t f = 0; f < table_arrays.size(); ++f) {
    const auto table = matrix<float>(table_arrays[f], "table");
    const auto rows = vector<const int64_t>(rows_arrays[f], "rows");
    if (f == 0) width = table.columns;
    if (table.columns != width) throw py::value_error("tables must be of one width");
    if (rows.size != residual.size) throw py::value_error("rows must be as long as residual");
    check_rows(rows, table.rows);
    columns.push_back({table.data, rows.data});
  }
  learn_factors(columns, residual.data, weight.data, residual.size, width, rate, penalty);
}

py::tuple distinct_arrays(const py::array& array) {
  const auto rows = vector<const int64_t>(array, "rows");
  auto inverse = empty_array(rows.size);
  int64_t* out = inverse.mutable_data();
  Distinct found;
  {
    py::gil_scoped_release release;
    found = distinct(rows.data, rows.size, out);
  }
  return py::make_tuple(to_array(found.values), inverse, to_array(found.counts));
}

}  // namespace

PYBIND11_MODULE(_runtime, m) {
  m.attr("compiler") = AUTOEMB_COMPILER;

  py::class_<Int64IdTable>(m, "Int64IdTable")
      .def(py::init<>())
      .def("rows", &integer_rows, py::arg("ids"), py::arg("insert") = true)
      .def("ids", [](const Int64IdTable& table) { return to_array(table.ids()); })
      .def("reserve", &Int64IdTable::reserve, py::arg("rows"))
      .def("__len__", [](const Int64IdTable& table) { return table.ids().size(); });

  py::class_<StringIdTable>(m, "StringIdTable")
      .def(py::init<>())
      .def("rows", &string_rows, py::arg("ids"), py::arg("insert") = true)
      .def("ids", &string_ids)
      .def("reserve", &StringIdTable::reserve, py::arg("rows"))
      .def("__len__", &StringIdTable::size);

  m.def("record", &record_checked, py::arg("rows"), py::arg("loss"), py::arg("decay"),
        py::arg("count"), py::arg("last_loss"), py::arg("mean_loss"));
  m.def("forgetting_sums", &forgetting_sums_checked, py::arg("rows"), py::arg("values"),
        py::arg("decay"), py::arg("sums"));
  m.def("learn_factors", &learn_factors_checked, py::arg("tables"), py::arg("rows"),
        py::arg("residual"), py::arg("weight"), py::arg("rate"), py::arg("penalty"));
  m.def("distinct", &distinct_arrays, py::arg("rows"));
}

}  // namespace autoemb
