"""The prose of docs/study.md; :mod:`bench.study` has its tables."""

HEAD = """\
# The study: fixed widths against the methods that choose

Made by `python -m bench.study` from the records in [studies](studies): do not edit. To make one of
them again (`widths` takes from twenty minutes to an hour on two cores, the others less):

```bash
autoemb study docs/studies/widths.toml --data FOLDER --out DIR
```

FOLDER holds `ml-100k`, `ml-latest-small`, `movietweetings` and `ml-1m-users-1-2999`: the first
487,650 ratings of MovieLens 1M's file, those of users 1 to 2,999, called MovieLens 1M below.
`DIR/study.md` has every table and figure, `DIR/study.json` is the record. CPU. FSE-16 is a fixed
width of 16; SAM, DARTS and AutoEmb are the paper's methods that mix 2, 16 and 128. Embedding rows
learn at the learning rate times a row rate. In `widths` every method, the fixed widths included,
chose among the same six row rates, on the first 70 % of each stream with the first seed. Losses of
the first tenth and of the online stage (the last 30 %) are means of predictions made before their
events were learnt, with the standard deviation over seeds. The best fixed width is that of the
lowest online loss, in hindsight. Intervals are of 95 %: blocks of time and seeds drawn again,
paired.
"""

READING = """\
**What came out.** AutoEmb's online loss is at most 0.17 % above that of the best of four tuned
fixed widths on all eight streams, and below it on five: surely on both tasks of MovieTweetings
(0.86 and 0.22 %), within the noise on MovieLens latest small (0.69 and 0.10 %) and MovieLens 1M's
regression (0.04 %). It is surely above it on one, MovieLens 1M's classification, by 0.08 %. With
all its defaults, untuned, it is 0.93 % below to 0.11 % above (the table of budgets below, last
column, two seeds). Nobody has to know the width or the rate: a width of 2 or 16 costs up to 1.6 %
and wants up to eight times the row rate of width 146 ("Row rates chosen"). DARTS, whose mix knows
an id but not how popular it is, is surely worse on both tasks of MovieTweetings and surely better
on none.

**It is not the width that pays.** Had each octave of popularity (1, 2 to 3, 4 to 7 and so on
earlier events) the width that did best there, in hindsight, that would gain 0.2 % or less on six
streams, 0.4 and 0.7 % on MovieLens latest small ("What choosing among widths could gain"; hindsight
flatters it, since the best of four noisy numbers is taken). On MovieTweetings' regression it would
gain 0.04 %, and AutoEmb gains 0.86 %: its mix tells the network how much is known of an id. A user
never seen gets sizes 2 and 16 and hence what their biases say, which all newcomers share; one seen
fifteen times hardly anything but 128. There equal weights that no controller changes cost 0.97 %,
equal weights at first and a controller without popularity among its inputs 0.91 %, and a start by
popularity that no controller changes 0.58 % ([record](../bench/results/ablations.json) of the
[ablations](ablations.md), two seeds).

**AutoEmb and SAM are one method here, to the last digit.** By default the controller learns from
new events before the weights learn them, first order: its gradient is then that of joint training,
which is what the paper calls SAM. They differ with `--validation reservoir` (the paper's past
events) or with other hypergradients. Past events are known by heart, and so is every id of them:
validated on those, the controller never meets a newcomer and gives everybody hardly anything but
the widest size.

**The widths that ids get** rise with popularity in {rising} of {fields} fields (rank correlation
0.5 or more), on users of MovieTweetings' regression from 9 to 127. For items of MovieLens latest
small's and MovieTweetings' classification they rise from newcomers on and then fall a little.
Nearly all of the mix is the widest size for items of MovieLens latest small's regression from three
events on, and for users of MovieTweetings' regression from fifteen, its items from thirty on;
elsewhere ids do not end at one size.

**Why the gains of an earlier default are gone, and these not.** An earlier default trained by Adam
(commit 51026a2), where AutoEmb was 0.1 to 1.5 % below every tuned fixed width on seven streams.
Under Adagrad every method is better than it was, width 146 by 0.8 to 4 %: Adagrad gives each row a
rate that falls with its own gradients, which is much of what a mix of sizes did for rare ids. What
the paper's recipe gains (below) is of that kind, too: over a fixed width that is trained badly.

**Early in the stream.** In the first tenth AutoEmb is 0.1 % below to 0.7 % above the best width
then. It is 1.1 and 3.0 % below FSE-146 on two streams, where that had chosen a row rate of 50 or
more, and 0.1 % below to 0.5 % above it on the other six: a mix is no better early than a wide row
at a rate that suits it. What helps is `--start popularity`, our own: ids start with more of the
widest size the more popular they are. With equal weights, the paper's start, the widest has a third
of the mix to learn by. Compared with those it is 0.2 to 0.7 % better in the first tenth of seven
streams and 0.1 % worse in one, with no sure difference online and widths that rise in 14 fields of
16 instead of 10.

**The paper's recipe.** With it (learning rates, BatchNorm over the batch, rows from N(0, 1))
AutoEmb is below FSE on eleven of sixteen streams, nine of them surely: on all of the other sets but
MovieLens latest small's regression, shuffled, and on none of MovieLens 1M's, where FSE is surely
better shuffled. The paper's order of all four comes out once; DARTS is the lowest on ten. In time
order every method's loss is 11 to 46 % above AutoEmb's with our defaults.

**The defaults** that `widths` shares. (1) Adagrad, with a sum for every number of a row. (2) The
controller learns from new events. (3) `norm="none"`: statistics of batches of 500 events that hold
some ten users, as MovieLens does, erase who they are; those of the past do not, but take away the
mean, and with it every bias. (4) `projection="identity"`: the widest size starts as a plain
embedding, biases at zero. (5) New rows have a standard deviation of 0.1: noise of full amplitude
has to be learnt away first. (6) Sizes are added up, without Eq. 7's 1 / N. (7) Ids start by
popularity. [Ablations](ablations.md) take them away one by one; `--preset paper` has none of them.
Fixed widths have (1) and (5), too, and nothing to normalise or to mix.

**Bytes.** With `--budget` a run stays within a share of the floats while it streams. A quarter of
them costs nothing or up to 0.4 % against the best fixed width on seven streams (0.97 % on MovieLens
latest small's regression), 3 % of them up to 1.2 %. Against AutoEmb without a budget a quarter
costs up to 0.7 % on seven, surely on three, and 1.8 % on that one, where two seeds differ too much
to be sure; [exported models](export.md), which are frozen, lose 0.02 %. Within a budget ids start
with equal weights: with the start by popularity a quarter costs 0.1 to 0.6 % more on six streams
(nothing on one, 0.1 % less on one), presumably since those who own the widest size then hardly use
the others, and share little with those who do not. Half the bytes of the smallest fixed width that
comes within 0.2 % suffice on four streams of eight. Losses do not fall evenly with bytes (6 % of
the floats do better than 12.5 % on MovieLens latest small); why is not known: a row granted late
that begins with what the id's other sizes say, or learns by smaller first steps, did no better in a
trial (one seed, not recorded).

**How far to trust it.** The defaults were found by sweeps over the same sets with one to five
seeds, whole streams in sight, not recorded; fixed widths of 16, 64 and 146 were in earlier ones,
each with as many row rates, but what AutoEmb got in the last of them (2 to 4, 6 and 7) no fixed
width could have had; (7) became the default after an earlier recording of its study below (commit
1f87e68). Only the choice among the six candidates is blind to the last 30 %, and it is noisy: it is
made with one seed. FSE-2 chose 200, the end of the grid, on three streams, FSE-146 for MovieLens
1M's regression; in the recording before (commit 9b229f6: other roundings, five candidates, equal
start) the latter chose 25, was 0.2 % better online and the best width, 0.05 % below that AutoEmb,
and 0.6 % below it early.
"""
