"""Faults planted in softmax.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

MUTANTS = tuple(
    Mutant(kernel="_softmax_kernel", fault=fault, old=old, new=new)
    for fault, old, new in (
        ("32-bit rows", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("programs overlap by a row", "* BLOCK_ROWS + tl", "* (BLOCK_ROWS - 1) + tl"),
        ("rows of a power of two", "rows[:, None] * COLUMNS", "rows[:, None] * BLOCK_COLUMNS"),
        ("one row past the end", "mask = (rows < num_rows)", "mask = (rows < num_rows + 1)"),
        ("the last column left out", "(columns < COLUMNS)", "(columns < COLUMNS - 1)"),
        ("padding counts as zero", 'other=float("-inf")', "other=0.0"),
        ("a masked load without other", ', other=float("-inf")', ""),
        ("sums in the dtype of y", "tl.sum(weights,", "tl.sum(weights.to(y_out.dtype.element_ty),"),
        ("no maximum taken off", "values - tl.max(values, axis=1, keep_dims=True)", "values"),
        ("the maximum of all rows", "tl.max(values, axis=1, keep_dims=True)", "tl.max(values)"),
        ("the sum of all rows", "tl.sum(weights, axis=1, keep_dims=True)", "tl.sum(weights)"),
        ("a store without its mask", "shares.to(y_out.dtype.element_ty), mask=mask", "shares.to(y_out.dtype.element_ty)"),
    )
)  # fmt: skip
