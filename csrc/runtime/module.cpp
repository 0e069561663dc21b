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
#include "statistics.h"

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

// Python's own hash of bytes: SipHash with a secret of the process.
uint64_t keyed_hash(std::string_view id) {
#if PY_VERSION_HEX >= 0x030e0000
  return static_cast<uint64_t>(Py_HashBuffer(id.data(), static_cast<Py_ssize_t>(id.size())));
#else
  return static_cast<uint64_t>(_Py_HashBytes(id.data(), static_cast<Py_ssize_t>(id.size())));
#endif
}

py::array_t<int64_t> string_rows(StringIdTable& table, const py::list& list, bool insert) {
  // All checks come before the first insertion: a bad id leaves the table as it was.
  std::vector<std::string_view> ids;
  ids.reserve(list.size());
  for (const py::handle id : list) {
    if (!PyUnicode_Check(id.ptr())) {
      throw py::type_error("ids[" + std::to_string(ids.size()) + "] must be a str, not " +
                           Py_TYPE(id.ptr())->tp_name);
    }
    py::ssize_t size = 0;
    const char* utf8 = PyUnicode_AsUTF8AndSize(id.ptr(), &size);  // cached in the str itself
    if (utf8 == nullptr) throw py::error_already_set();
    ids.emplace_back(utf8, static_cast<size_t>(size));
  }
  auto rows = empty_array(ids.size());
  int64_t* out = rows.mutable_data();
  for (const std::string_view id : ids) *out++ = table.row(id, insert);
  return rows;
}

py::array_t<int64_t> integers_at(const Int64IdTable& table, const py::array& array) {
  const auto rows = vector<const int64_t>(array, "rows");
  check_rows(rows, table.ids().size());
  auto ids = empty_array(rows.size);
  int64_t* out = ids.mutable_data();
  for (size_t i = 0; i < rows.size; ++i) out[i] = table.ids()[rows.data[i]];
  return ids;
}

py::list strings_at(const StringIdTable& table, const py::array& array) {
  const auto rows = vector<const int64_t>(array, "rows");
  check_rows(rows, table.size());
  py::list ids(rows.size);
  for (size_t i = 0; i < rows.size; ++i) {
    const std::string_view id = table.id(rows.data[i]);
    ids[i] = py::str(id.data(), id.size());
  }
  return ids;
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

StatisticsFeature statistics_feature(const py::array& table_array, const py::array& rows_array,
                                     const py::object& offsets_array, size_t events) {
  const auto table = matrix<float>(table_array, "table");
  const auto rows = vector<const int64_t>(rows_array, "rows");
  check_rows(rows, table.rows);
  StatisticsFeature found{table.data, table.columns, rows.data, nullptr, true, false, 0};
  if (offsets_array.is_none()) {
    if (rows.size != events) throw py::value_error("rows must be as long as label");
    return found;
  }
  const auto offsets = vector<const int64_t>(py::cast<py::array>(offsets_array), "offsets");
  bool sound = offsets.size == events + 1 && offsets.data[0] == 0 &&
               offsets.data[events] == static_cast<int64_t>(rows.size);
  for (size_t e = 0; sound && e < events; ++e) sound = offsets.data[e] <= offsets.data[e + 1];
  if (!sound) throw py::value_error("offsets must ascend from 0 to the number of rows");
  found.offsets = offsets.data;
  return found;
}

StatisticsTotals statistics_totals(const py::dict& totals, size_t channels, size_t features,
                                   size_t strengths) {
  const auto of = [&](const char* name, size_t size) {
    const auto found = vector<double>(py::cast<py::array>(totals[name]), name);
    if (found.size != size) {
      throw py::value_error(std::string(name) + " must have " + std::to_string(size) + " numbers");
    }
    return found.data;
  };
  const auto losses = matrix<double>(py::cast<py::array>(totals["losses"]), "losses");
  if (losses.rows != features || losses.columns != strengths) {
    throw py::value_error("losses must have " + std::to_string(features * strengths) + " numbers");
  }
  return {of("total", channels), of("events", 1), of("squares", channels), losses.data};
}

// Checks that each of the last events knows no other than events before it, and those that the
// event before it knows.
void check_until(const Vector<const int64_t>& until, size_t last, size_t events) {
  if (until.size > events || last > events) {
    throw py::value_error("until and last must be within label");
  }
  size_t before = 0;
  for (size_t b = 0; b < until.size; ++b) {
    const auto own = static_cast<size_t>(until.data[b]);
    if (own < before || own > events - until.size + b) {
      throw py::value_error("an event may know those before it");
    }
    before = own;
  }
  if (last < before) throw py::value_error("last must not be before until");
}

void advance_statistics_checked(const std::vector<py::array>& tables,
                                const std::vector<py::array>& rows,
                                const std::vector<py::object>& offsets,
                                const std::vector<bool>& counts, const std::vector<bool>& factored,
                                const std::vector<double>& shrinkage, const py::array& label_array,
                                const py::array& weight_array, const py::array& until_array,
                                size_t last, const py::dict& totals, const py::array& told_array,
                                const py::array& mean_array, const std::vector<double>& strengths,
                                bool odds, double rarest, double decay, double rate, double penalty,
                                double largest) {
  const auto label = matrix<const float>(label_array, "label");
  const auto weight = vector<const float>(weight_array, "weight");
  const auto until = vector<const int64_t>(until_array, "until");
  const size_t channels = label.columns;
  if (channels == 0) throw py::value_error("label must have a column");
  if (weight.size != label.rows) throw py::value_error("weight must be as long as label");
  for (const size_t size :
       {rows.size(), offsets.size(), counts.size(), factored.size(), shrinkage.size()}) {
    if (size != tables.size()) throw py::value_error("features must be as many as tables");
  }
  StatisticsRules rules{channels, 0, strengths, odds, rarest, decay, rate, penalty, largest};
  std::vector<StatisticsFeature> features;
  for (size_t f = 0; f < tables.size(); ++f) {
    auto& own =
        features.emplace_back(statistics_feature(tables[f], rows[f], offsets[f], label.rows));
    own.counts = counts[f], own.factored = factored[f], own.strength = shrinkage[f];
    const size_t least = 2 + 2 * channels;
    if (own.width < least || (own.factored && own.offsets != nullptr) ||
        (own.factored && rules.factors != 0 && rules.factors != own.width - least)) {
      throw py::value_error("a table is of another width");
    }
    if (own.factored) rules.factors = own.width - least;
  }
  check_until(until, last, label.rows);
  const StatisticsTotals sums =
      statistics_totals(totals, channels, tables.size(), strengths.size());
  const size_t stride = tables.size() * (3 + 2 * channels);
  const auto told = matrix<float>(told_array, "told");
  const auto mean = matrix<float>(mean_array, "mean");
  if (told.rows != label.rows || told.columns != stride) {
    throw py::value_error("told must have " + std::to_string(stride) + " columns");
  }
  if (mean.rows != label.rows || mean.columns != channels) {
    throw py::value_error("mean must be as label");
  }
  py::gil_scoped_release release;
  StatisticsPass pass(features, sums, rules);
  size_t taken = 0;
  const auto take_in = [&](size_t end) {
    for (; taken < end; ++taken) {
      pass.take_in(taken, label.data + taken * channels, weight.data[taken],
                   told.data + taken * stride, mean.data + taken * channels);
    }
  };
  for (size_t b = 0; b < until.size; ++b) {
    take_in(static_cast<size_t>(until.data[b]));
    const size_t event = label.rows - until.size + b;
    pass.tell(event, told.data + event * stride, mean.data + event * channels);
  }
  take_in(last);
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
      .def("at", &integers_at, py::arg("rows"))
      .def("reserve", &Int64IdTable::reserve, py::arg("rows"))
      .def("nbytes", &Int64IdTable::nbytes)
      .def("__len__", [](const Int64IdTable& table) { return table.ids().size(); });

  py::class_<StringIdTable>(m, "StringIdTable")
      .def(py::init([] { return StringIdTable(&keyed_hash); }))
      .def("rows", &string_rows, py::arg("ids"), py::arg("insert") = true)
      .def("ids", &string_ids)
      .def("at", &strings_at, py::arg("rows"))
      .def("reserve", &StringIdTable::reserve, py::arg("rows"))
      .def("nbytes", &StringIdTable::nbytes)
      .def("__len__", &StringIdTable::size);

  m.def("record", &record_checked, py::arg("rows"), py::arg("loss"), py::arg("decay"),
        py::arg("count"), py::arg("last_loss"), py::arg("mean_loss"));
  m.def("advance_statistics", &advance_statistics_checked, py::arg("tables"), py::arg("rows"),
        py::arg("offsets"), py::arg("counts"), py::arg("factored"), py::arg("shrinkage"),
        py::arg("label"), py::arg("weight"), py::arg("until"), py::arg("last"), py::arg("totals"),
        py::arg("told"), py::arg("mean"), py::kw_only(), py::arg("strengths"), py::arg("odds"),
        py::arg("rarest"), py::arg("decay"), py::arg("rate"), py::arg("penalty"),
        py::arg("largest"));
  m.def("distinct", &distinct_arrays, py::arg("rows"));
}

}  // namespace autoemb
