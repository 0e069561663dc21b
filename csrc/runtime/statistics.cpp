#include "statistics.h"

#include <algorithm>
#include <cmath>

namespace autoemb {
namespace {

// A float counts no further than to 2^24: from here on an id's past is halved.
constexpr float kMostEvents = 1 << 23;

struct Range {
  size_t first, last;
};

Range entries(const StatisticsFeature& feature, size_t event) {
  if (feature.offsets == nullptr) return {event, event + 1};
  return {static_cast<size_t>(feature.offsets[event]),
          static_cast<size_t>(feature.offsets[event + 1])};
}

float* row_of(const StatisticsFeature& feature, size_t entry) {
  return feature.table + static_cast<size_t>(feature.rows[entry]) * feature.width;
}

}  // namespace

StatisticsPass::StatisticsPass(const std::vector<StatisticsFeature>& features,
                               const StatisticsTotals& totals, const StatisticsRules& rules)
    : features_(features),
      totals_(totals),
      rules_(rules),
      unit_(std::sqrt(totals.squares[rules.channels - 1] / totals.events[0])),
      parts_(features.size() * rules.channels),
      mean_(rules.channels),
      sum_(rules.channels),
      sums_(rules.channels),
      before_(features.size() * rules.factors),
      total_(rules.factors) {}

double StatisticsPass::link(double chance) const {
  const double bounded = std::clamp(chance, rules_.rarest, 1 - rules_.rarest);
  return std::log(bounded / (1 - bounded));
}

double StatisticsPass::unlinked(double sum) const {
  return rules_.odds ? 1 / (1 + std::exp(-sum)) : sum;
}

double StatisticsPass::part(size_t channel, double sum, double strength, double count) const {
  if (count + strength == 0) return 0;
  const double offset = sum / (count + strength);
  if (!rules_.odds) return offset;
  return link(mean_[channel] + offset) - link(mean_[channel]);
}

void StatisticsPass::read(size_t feature, size_t event) {
  const size_t channels = rules_.channels;
  const StatisticsFeature& own = features_[feature];
  double count = 0;
  std::fill(sums_.begin(), sums_.end(), 0.0);
  const Range range = entries(own, event);
  for (size_t entry = range.first; entry < range.last; ++entry) {
    const float* row = row_of(own, entry);
    count += row[0];
    for (size_t c = 0; c < channels; ++c) sums_[c] += row[1 + c];
  }
  for (size_t c = 0; c < channels; ++c) {
    parts_[feature * channels + c] = part(c, sums_[c], own.strength, count);
  }
}

void StatisticsPass::tell(size_t event, float* told, float* mean) {
  const size_t channels = rules_.channels, stride = 3 + 2 * channels;
  for (size_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(totals_.total[c] / totals_.events[0]);
  }
  std::fill(total_.begin(), total_.end(), 0.0);
  std::fill(before_.begin(), before_.end(), 0.0);
  for (size_t f = 0; f < features_.size(); ++f) {
    const StatisticsFeature& own = features_[f];
    float* out = told + f * stride;
    std::fill_n(out, stride, 0.0f);
    const Range range = entries(own, event);
    for (size_t entry = range.first; entry < range.last; ++entry) {
      const float* row = row_of(own, entry);
      for (size_t i = 0; i < stride - 1; ++i) out[i] += row[i];
    }
    // The factors of an id without events are as they were drawn: they say nothing.
    if (!own.factored || out[0] == 0) continue;
    const float* factors = row_of(own, event) + stride - 1;
    for (size_t k = 0; k < rules_.factors; ++k) {
      before_[f * rules_.factors + k] = factors[k];
      total_[k] += factors[k];
    }
  }
  for (size_t f = 0; f < features_.size(); ++f) {
    double match = 0;
    for (size_t k = 0; k < rules_.factors; ++k) {
      const double own = before_[f * rules_.factors + k];
      match += own * (total_[k] - own);
    }
    told[f * stride + stride - 1] = static_cast<float>(match);
  }
}

void StatisticsPass::take_in(size_t event, const float* label, double weight, const float* told,
                             const float* mean) {
  if (weight == 0) return;
  compare_strengths(label, weight, told, mean);
  const size_t channels = rules_.channels;
  for (size_t c = 0; c < channels; ++c) {
    mean_[c] = totals_.total[c] / totals_.events[0];
    sum_[c] = rules_.odds ? link(mean_[c]) : mean_[c];
  }
  for (size_t f = 0; f < features_.size(); ++f) {
    read(f, event);
    for (size_t c = 0; c < channels; ++c) sum_[c] += parts_[f * channels + c];
  }
  double left = 0;
  for (size_t c = 0; c < channels; ++c) {
    left = label[c] - unlinked(sum_[c]);
    totals_.squares[c] += weight * left * left;
  }
  if (rules_.factors > 0) learn_factors(event, left / unit_, weight);
  split(event, label, weight);
  for (size_t c = 0; c < channels; ++c) totals_.total[c] += weight * label[c];
  totals_.events[0] += weight;
}

void StatisticsPass::compare_strengths(const float* label, double weight, const float* told,
                                       const float* mean) {
  const size_t channels = rules_.channels, stride = 3 + 2 * channels;
  for (size_t c = 0; c < channels; ++c) {
    mean_[c] = mean[c];
    sum_[c] = rules_.odds ? link(mean_[c]) : mean_[c];
  }
  for (size_t f = 0; f < features_.size(); ++f) {
    const float* own = told + f * stride;
    for (size_t c = 0; c < channels; ++c) {
      parts_[f * channels + c] = part(c, own[1 + c], features_[f].strength, own[0]);
      sum_[c] += parts_[f * channels + c];
    }
  }
  double* losses = totals_.losses;
  for (size_t f = 0; f < features_.size(); ++f) {
    const float* own = told + f * stride;
    for (const double strength : rules_.strengths) {
      double loss = 0;
      for (size_t c = 0; c < channels; ++c) {
        const double others = sum_[c] - parts_[f * channels + c];
        const double left = label[c] - unlinked(others + part(c, own[1 + c], strength, own[0]));
        loss += left * left;
      }
      *losses++ += weight * loss;
    }
  }
}

void StatisticsPass::learn_factors(size_t event, double left, double weight) {
  const size_t width = rules_.factors, place = 2 + 2 * rules_.channels;
  std::fill(total_.begin(), total_.end(), 0.0);
  size_t others = 0;
  double pairs = 0, reach = 0;  // products; how far a step of 1 would move them
  for (size_t f = 0; f < features_.size(); ++f) {
    if (!features_[f].factored) continue;
    ++others;
    const float* own = row_of(features_[f], event) + place;
    for (size_t k = 0; k < width; ++k) {
      // Kept as they were: two features may hold one row of a table that they share.
      before_[f * width + k] = own[k];
      pairs += total_[k] * own[k];
      total_[k] += own[k];
    }
  }
  for (size_t f = 0; f < features_.size(); ++f) {
    if (!features_[f].factored) continue;
    for (size_t k = 0; k < width; ++k) {
      const double other = total_[k] - before_[f * width + k];
      reach += other * other;
    }
  }
  const double error = std::clamp(left, -rules_.largest, rules_.largest) - pairs;
  // Each is moved by all the others.
  const double full = weight * rules_.rate / static_cast<double>(std::max<size_t>(1, others - 1));
  const double step = full / (1 + full * reach);
  for (size_t f = 0; f < features_.size(); ++f) {
    if (!features_[f].factored) continue;
    float* own = row_of(features_[f], event) + place;
    for (size_t k = 0; k < width; ++k) {
      const double was = before_[f * width + k];
      own[k] =
          static_cast<float>(own[k] + step * (error * (total_[k] - was) - rules_.penalty * was));
    }
  }
}

void StatisticsPass::split(size_t event, const float* label, double weight) {
  const size_t channels = rules_.channels;
  for (size_t f = 0; f < features_.size(); ++f) {
    const StatisticsFeature& own = features_[f];
    if (!own.counts) continue;
    double* parts = parts_.data() + f * channels;
    for (size_t c = 0; c < channels; ++c) sum_[c] -= parts[c];
    const Range range = entries(own, event);
    for (size_t entry = range.first; entry < range.last; ++entry) {
      float* row = row_of(own, entry);
      float* recent = row + 1 + channels;
      row[0] = static_cast<float>(row[0] + weight);
      recent[0] = static_cast<float>(rules_.decay * recent[0] + weight);
      for (size_t c = 0; c < channels; ++c) {
        const double left = weight * (label[c] - unlinked(sum_[c]));
        row[1 + c] = static_cast<float>(row[1 + c] + left);
        recent[1 + c] = static_cast<float>(rules_.decay * recent[1 + c] + left);
      }
      if (row[0] >= kMostEvents) {
        for (size_t i = 0; i < 1 + channels; ++i) row[i] /= 2;
      }
    }
    read(f, event);
    for (size_t c = 0; c < channels; ++c) sum_[c] += parts[c];
  }
}

}  // namespace autoemb
