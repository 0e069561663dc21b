"""Results of the kernels against the naive op in float64."""

from tests.kernels.test_soft_embedding import naive, tables_grad


def check(sample, result, assert_near, row_numbers=None):
    expected = naive(sample, row_numbers)
    for name in ("output", "mean", "variance"):
        assert_near(getattr(result, name), expected[name], "values")
    for name in ("weights_grad", "projection_grad", "bias_grad"):
        assert_near(getattr(result, name), expected[name], "gradients")
    for actual, exact in zip(tables_grad(sample, result), expected["tables_grad"], strict=True):
        assert_near(actual, exact, "gradients")
