// What labels say of ids, event by event: `autoemb.streaming.statistics`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace autoemb {

// A feature's ids in a queue of events. A table has a row an id: its events n, C sums S of what
// their labels left, a count w and C sums R that forget, and K factors p (none in some tables).
struct StatisticsFeature {
  float* table;
  size_t width;            // of a row: 2 + 2 C + K
  const int64_t* rows;     // of event e: rows[e], or rows[offsets[e]] up to rows[offsets[e + 1]]
  const int64_t* offsets;  // null where every event holds one id
  bool counts;             // whether an event is one of its ids
  bool factored;           // whether it has factors; then every event holds one id
  double strength;         // events without a word that an id is taken to have had
};

// What is kept of no id. Of all labels m and their weights w:
struct StatisticsTotals {
  double* total;    // [C]: sum of w m
  double* events;   // [1]: sum of w
  double* squares;  // [C]: sum of w (m - expected)^2
  double* losses;   // [F, strengths]: the same over channels, were a feature shrunk by a strength
};

struct StatisticsRules {
  size_t channels;                // C
  size_t factors;                 // K
  std::vector<double> strengths;  // that are compared
  bool odds;                      // whether features add log-odds; else what they say
  double rarest;                  // the least chance whose log-odds are taken
  double decay;                   // share of w and R that an event leaves
  double rate, penalty;           // of the factors' steps
  double largest;                 // so many times the usual a label leaves at most for them
};

// A queue of labelled events that are taken in one by one, and of which the last are told what is
// known of their ids: each knows the labels of as many events of the queue as it may.
class StatisticsPass {
 public:
  StatisticsPass(const std::vector<StatisticsFeature>& features, const StatisticsTotals& totals,
                 const StatisticsRules& rules);

  // Writes n, S, w, R and the product with the other features' factors, [F, 3 + 2 C], and the mean
  // of all labels, [C].
  void tell(size_t event, float* told, float* mean);

  // Takes in the label [C] of an event that was told this. It is split between the features, one
  // after the other: a feature gets what is left over the mean and the shrunken offsets of all
  // others.
  void take_in(size_t event, const float* label, double weight, const float* told,
               const float* mean);

 private:
  double link(double chance) const;
  double unlinked(double sum) const;
  double part(size_t channel, double sum, double strength, double count) const;
  void read(size_t feature, size_t event);
  void compare_strengths(const float* label, double weight, const float* told, const float* mean);
  void learn_factors(size_t event, double left, double weight);
  void split(size_t event, const float* label, double weight);

  const std::vector<StatisticsFeature>& features_;
  const StatisticsTotals totals_;
  const StatisticsRules& rules_;
  double unit_;  // what a label usually leaves in the last channel
  // Of the event in hand: each feature's part of what is expected [F, C]; the mean and their sum.
  std::vector<double> parts_, mean_, sum_;
  std::vector<double> sums_;            // S of one feature
  std::vector<double> before_, total_;  // factors
};

}  // namespace autoemb
