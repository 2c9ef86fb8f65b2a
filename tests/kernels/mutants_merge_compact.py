"""Faults planted in merge_compact.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

WIDE = "tl.float64 if {}.dtype.element_ty == tl.float64 else tl.float32"
BLOCKS = "tl.program_id(1).to(tl.int64) * BLOCK_D"
KEPT = "tl.load(before + num_layout_tokens)"

FAULTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "_tokens_of_tile": (
        ("32-bit programs", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("lines of the table too short", "* TILE_COLUMNS", "* (TILE_COLUMNS - 1)"),
        ("m patches a token", "merge * merge", "merge"),
        ("2m patches a token", "merge * merge", "merge * 2"),
        ("every tile is its item's first", "tl.load(line + FIRST) + ", ""),
        ("the first token left out", "tl.arange(0, BLOCK_TOKENS)", "tl.arange(0, BLOCK_TOKENS) + 1"),
        ("one token past the item", "rank * square < tl", "rank * square <= tl"),
        ("as many tokens as patches", "rank * square < tl", "rank < tl"),
        ("one frame an item", "tl.load(line + FRAMES) * ", ""),
        ("tokens start where patches do", "tl.load(line + TOKEN_START)", "tl.load(line + PATCH_START)"),
        ("patches start where tokens do", "tl.load(line + PATCH_START)", "tl.load(line + TOKEN_START)"),
        ("the mask read past its end", "keep_mask + row, mask=exists, other=0", "keep_mask + row"),
        ("a masked load without other", "mask=exists, other=0", "mask=exists"),
        ("the dropped ones kept", "!= 0", "== 0"),
        ("rows counted with their own token", "before + row,", "before + row + 1,"),
        ("32-bit rows", "mask=kept, other=0).to(tl.int64)", "mask=kept, other=0)"),
        ("one row past the capacity", "(row < num_tokens)", "(row <= num_tokens)"),
        ("no capacity", "kept & (row < num_tokens)", "kept"),
        ("the first patch of token 0", "+ rank * square, kept", "+ rank * 0, kept"),
    ),
    "_fwd_kernel": (
        ("blocks of channels overlap", BLOCKS, "tl.program_id(1).to(tl.int64) * (BLOCK_D - 1)"),
        ("axes of the grid swapped", BLOCKS, "tl.program_id(0).to(tl.int64) * BLOCK_D"),
        ("padding channels not masked", "(columns < D)", "(columns < tl.program_id(1) * BLOCK_D + BLOCK_D)"),
        ("the last channel left out", "(columns < D)", "(columns < D - 1)"),
        ("every token of the tile", "stored[:, None] & inside", "inside | (stored[:, None] & inside)"),
        ("the last patch left out", "range(square)", "range(square - 1)"),
        ("the first patch left out", "range(square)", "range(1, square)"),
        ("patches a block apart", "(patch + corner)", "(patch + corner * square)"),
        ("the same patch again", "(patch + corner)[:, None]", "patch[:, None]"),
        ("the sum, not the mean", " * (1.0 / square.to(wide))", ""),
        ("divided by m", "1.0 / square.to(wide)", "1.0 / tl.sqrt(square.to(wide))"),
        ("float32 for float64", WIDE.format("features"), "tl.float32"),
        ("features cut to float16", "other=0.0).to(wide)", "other=0.0).to(tl.float16).to(wide)"),
        ("a masked load without other", "mask=mask, other=0.0", "mask=mask"),
        ("a load without its mask", ", mask=mask, other=0.0", ""),
        ("a store without its mask", "mean, mask=mask", "mean"),
        ("stored a row too late", "row[:, None] * D + columns[None, :], mean", "(row + 1)[:, None] * D + columns[None, :], mean"),
        ("stored at the first patch", "row[:, None] * D + columns[None, :], mean", "patch[:, None] * D + columns[None, :], mean"),
        ("nothing past the kept ones", "if keep_mask is not None", "if keep_mask is None"),
        ("zeros over the last kept one", KEPT, f"{KEPT} - 1"),
        ("the first row past the kept ones left out", KEPT, f"{KEPT} + 1"),
        ("the count before the last token", KEPT, "tl.load(before + num_layout_tokens - 1)"),
        ("the last row past the kept ones left out", f"{KEPT}, num_tokens", f"{KEPT}, num_tokens - 1"),
        ("ones past the kept ones", "0.0, mask=past", "1.0, mask=past"),
    ),
    "_bwd_kernel": (
        ("blocks of channels overlap", BLOCKS, "tl.program_id(1).to(tl.int64) * (BLOCK_D - 1)"),
        ("axes of the grid swapped", BLOCKS, "tl.program_id(0).to(tl.int64) * BLOCK_D"),
        ("padding channels not masked", "(columns < D)", "(columns < tl.program_id(1) * BLOCK_D + BLOCK_D)"),
        ("the last channel left out", "(columns < D)", "(columns < D - 1)"),
        ("the gradient of a dropped token", "mask=stored[:, None] & inside, other=0.0", "mask=exists[:, None] & inside, other=0.0"),
        ("ones for a dropped token", "other=0.0", "other=1.0"),
        ("a masked load without other", "& inside, other=0.0", "& inside"),
        ("the gradient of the next token", "grad + row[:, None]", "grad + (row + 1)[:, None]"),
        ("the gradient at the first patch", "grad + row[:, None]", "grad + patch[:, None]"),
        ("wrong sign", "token_grad.to(wide)", "(-token_grad.to(wide))"),
        ("not divided", " * (1.0 / square.to(wide))", ""),
        ("divided by m", "1.0 / square.to(wide)", "1.0 / tl.sqrt(square.to(wide))"),
        ("float32 for float64", WIDE.format("grad"), "tl.float32"),
        ("the last patch left out", "range(square)", "range(square - 1)"),
        ("the first patch left out", "range(square)", "range(1, square)"),
        ("patches a block apart", "(patch + corner)", "(patch + corner * square)"),
        ("nothing for dropped tokens", "mask=exists[:, None] & inside)", "mask=stored[:, None] & inside)"),
        ("tokens past the item", "mask=exists[:, None] & inside)", "mask=inside | (exists[:, None] & inside))"),
    ),
}  # fmt: skip

MUTANTS = tuple(
    Mutant(kernel=kernel, fault=fault, old=old, new=new)
    for kernel, faults in FAULTS.items()
    for fault, old, new in faults
)
