"""Faults planted in rope_2d.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

KERNEL = "_rotate_kernel"

MUTANTS = tuple(
    Mutant(kernel=KERNEL, fault=fault, old=old, new=new)
    for fault, old, new in (
        ("one row past the end", "(rows < num_rows)", "(rows < num_rows + 1)"),
        ("the last row left out", "(rows < num_rows)", "(rows < num_rows - 1)"),
        ("padding channels not masked", "(columns < HALF)", "(columns < BLOCK_HALF)"),
        ("the last channel left out", "(columns < HALF)", "(columns < HALF - 1)"),
        ("programs overlap by a row", "* BLOCK_ROWS + tl.arange", "* (BLOCK_ROWS - 1) + tl.arange"),
        ("32-bit rows", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("table row of the head", "(rows // HEADS)[:, None] * HALF", "rows[:, None] * HALF"),
        ("table rows of D channels", "(rows // HEADS)[:, None] * HALF", "(rows // HEADS)[:, None] * (2 * HALF)"),
        ("heads before patches", "(rows // HEADS)[:, None]", "(rows % (num_rows // HEADS))[:, None]"),
        ("sine of the cosine's table", "tl.load(sin + angle", "tl.load(cos + angle"),
        ("the rotation back turns forth", "sine = -sine", "sine = sine + 0"),
        ("interleaved pairs", "second = first + HALF", "second = first + 1"),
        ("heads of D/2 channels", "rows[:, None] * (2 * HALF)", "rows[:, None] * HALF"),
        ("wrong sign in the first half of k", "(a * cosine - b * sine).to(k_out", "(a * cosine + b * sine).to(k_out"),
        ("halves swapped in q", "(b * cosine + a * sine).to(q_out", "(a * cosine + b * sine).to(q_out"),
        ("k reads q", "b = tl.load(k + second", "b = tl.load(q + second"),
        ("k is written over q", "tl.store(k_out + first", "tl.store(q_out + first"),
        ("the table read in bfloat16", "cosine = tl.load(cos + angle, mask=mask, other=0.0)",
         "cosine = tl.load(cos + angle, mask=mask, other=0.0).to(tl.bfloat16).to(tl.float32)"),
        ("a load without its mask", "sine = tl.load(sin + angle, mask=mask, other=0.0)", "sine = tl.load(sin + angle)"),
        ("a masked load without other", "a = tl.load(k + first, mask=mask, other=0.0)", "a = tl.load(k + first, mask=mask)"),
    )
)  # fmt: skip
