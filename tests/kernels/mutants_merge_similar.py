"""Faults planted in merge_similar.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

WIDE = "tl.float64 if {}.dtype.element_ty == tl.float64 else tl.float32"
BLOCKS = "tl.program_id(1).to(tl.int64) * BLOCK_D"
PLACES = "(tl.load(line + ROWS) // merge) * (tl.load(line + COLUMNS) // merge)"
KEPT = "tl.load(before + num_layout_tokens)"
CURRENT = "current = tl.load(tokens + token[:, None] * D + columns[None, :], mask=mask, other=0.0)"
NEXT = "alive, frame, end, step)"

FAULTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "_runs_kernel": (
        ("32-bit programs", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("places of patches", PLACES, "tl.load(line + ROWS) * tl.load(line + COLUMNS)"),
        ("rows twice", PLACES, "(tl.load(line + ROWS) // merge) * (tl.load(line + ROWS) // merge)"),
        ("every tile is its item's first", "tl.load(line + FIRST) + ", ""),
        ("one place past the frame", "place < places", "place <= places"),
        ("the last channel left out", "(columns < D)", "(columns < D - 1)"),
        ("padding channels not masked", "(columns < D)", "(columns < BLOCK_D)"),
        ("tokens start where patches do", "tl.load(line + TOKEN_START)", "tl.load(line + MERGE)"),
        ("frames a tile apart", "token += places", "token += BLOCK_PLACES"),
        ("above the threshold", ">= threshold", "> threshold"),
        ("the product, not the cosine", "threshold * head_norm * norm", "threshold"),
        ("the head's norm twice", "threshold * head_norm * norm", "threshold * head_norm * head_norm"),
        ("squares for norms", "norm = tl.sqrt(tl.sum(current * current, axis=1))", "norm = tl.sum(current * current, axis=1)"),
        ("compared with the token before", "tl.where(joins[:, None], head, current)", "current"),
        ("compared with the first frame", "tl.where(joins[:, None], head, current)", "head"),
        ("the first frame's norm", "tl.where(joins, head_norm, norm)", "head_norm"),
        ("one frame early", "tl.where(joins, head_frame, frame)", "tl.where(joins, head_frame, frame - 1)"),
        ("frames swapped", "tl.where(joins, head_frame, frame)", "tl.where(joins, frame, head_frame)"),
        ("the others begin", "~joins", "joins"),
        ("the second frame left out", "tl.range(1,", "tl.range(2,"),
        ("the last frame left out", "tl.load(line + FRAMES).to(tl.int32)", "tl.load(line + FRAMES).to(tl.int32) - 1"),
        ("one frame too many", "tl.load(line + FRAMES).to(tl.int32)", "tl.load(line + FRAMES).to(tl.int32) + 1"),
        ("norms in the tokens' dtype", f"{CURRENT}.to(tl.float32)", CURRENT),
        ("a masked load without other", CURRENT, CURRENT.replace(", other=0.0", "")),
        ("places past the frame are stored", "tl.store(keep_mask_out + token, ~joins, mask=exists)",
         "tl.store(keep_mask_out + token, ~joins)"),
    ),
    "_heads_of_tile": (
        ("32-bit programs", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("lines of the table too short", "* TILE_COLUMNS", "* (TILE_COLUMNS - 1)"),
        ("places of patches", PLACES, "tl.load(line + ROWS) * tl.load(line + COLUMNS)"),
        ("columns twice", PLACES, "(tl.load(line + COLUMNS) // merge) * (tl.load(line + COLUMNS) // merge)"),
        ("tokens start where patches do", "tl.load(line + TOKEN_START)", "tl.load(line + MERGE)"),
        ("one frame an item", "tl.load(line + FRAMES) * step", "step"),
        ("every tile is its item's first", "tl.load(line + FIRST) + ", ""),
        ("the first token left out", "tl.arange(0, BLOCK_TOKENS)", "tl.arange(0, BLOCK_TOKENS) + 1"),
        ("one token past the item", "mask=token < end", "mask=token <= end"),
        ("the mask read past its end", ", mask=token < end, other=0", ""),
        ("a masked load without other", "mask=token < end, other=0", "mask=token < end"),
        ("runs begin where they do not", "!= 0", "== 0"),
        ("the frame of the place beside", "head_frame + token", "head_frame + token - 1"),
        ("rows counted with their own token", "before + token,", "before + token + 1,"),
        ("32-bit rows", "mask=begins, other=0).to(tl.int64)", "mask=begins, other=0)"),
    ),
    "_mean_fwd_kernel": (
        ("blocks of channels overlap", BLOCKS, "tl.program_id(1).to(tl.int64) * (BLOCK_D - 1)"),
        ("axes of the grid swapped", BLOCKS, "tl.program_id(0).to(tl.int64) * BLOCK_D"),
        ("padding channels not masked", "(columns < D)", "(columns < tl.program_id(1) * BLOCK_D + BLOCK_D)"),
        ("the last channel left out", "(columns < D)", "(columns < D - 1)"),
        ("no capacity", "begins & (row < num_tokens)", "begins"),
        ("one row past the capacity", "row < num_tokens", "row <= num_tokens"),
        ("float32 for float64", WIDE.format("tokens"), "tl.float32"),
        ("the last token only", "total += rows", "total = rows"),
        ("the longest run of the tile", "length += alive.to(tl.float32)", "length += 1.0"),
        ("tokens of ended runs", "mask=alive[:, None] & inside", "mask=stored[:, None] & inside"),
        ("a masked load without other", "& inside, other=0.0", "& inside"),
        ("the sum, not the mean", "1.0 / tl.where", "1.0 + 0.0 * tl.where"),
        ("two frames a step", NEXT, "alive, frame, end, 2 * step)"),
        ("runs of the frame after", NEXT, "alive, frame + 1, end, step)"),
        ("on into the next item", NEXT, "alive, frame, end + step, step)"),
        ("the last frame left out", NEXT, "alive, frame, end - step, step)"),
        ("all later tokens of the place", NEXT, "alive, tl.load(head_frame + token + step, mask=alive, other=0), end, step)"),
        ("stored a row too late", "address = merged_out + row[:, None]", "address = merged_out + (row + 1)[:, None]"),
        ("weights one too large", "row, length,", "row, length + 1.0,"),
        ("every block of channels stores weights", "mask=stored & (tl.program_id(1) == 0)", "mask=stored"),
        ("zeros over the last mean", KEPT, f"{KEPT} - 1"),
        ("the first row past the means left out", KEPT, f"{KEPT} + 1"),
        ("the last row past the means left out", f"{KEPT}, num_tokens", f"{KEPT}, num_tokens - 1"),
        ("ones past the means", "0.0, mask=past[:, None]", "1.0, mask=past[:, None]"),
        ("weights past the means", "0.0, mask=past & (tl", "1.0, mask=past & (tl"),
    ),
    "_mean_bwd_kernel": (
        ("blocks of channels overlap", BLOCKS, "tl.program_id(1).to(tl.int64) * (BLOCK_D - 1)"),
        ("axes of the grid swapped", BLOCKS, "tl.program_id(0).to(tl.int64) * BLOCK_D"),
        ("padding channels not masked", "(columns < D)", "(columns < tl.program_id(1) * BLOCK_D + BLOCK_D)"),
        ("the last channel left out", "(columns < D)", "(columns < D - 1)"),
        ("no capacity", "begins & (row < num_tokens)", "begins"),
        ("one row past the capacity", "row < num_tokens", "row <= num_tokens"),
        ("float32 for float64", WIDE.format("grad"), "tl.float32"),
        ("not divided", " * scale[:, None]", ""),
        ("the next run's weight", "weights + row", "weights + row + 1"),
        ("wrong sign", "row_grad.to(wide) *", "-row_grad.to(wide) *"),
        ("a masked load without other", "& inside, other=0.0", "& inside"),
        ("ones for a mean that was dropped", "other=0.0", "other=1.0"),
        ("the next run's gradient", "grad + row[:, None] * D", "grad + (row + 1)[:, None] * D"),
        ("nothing for means that were dropped", "alive = begins", "alive = stored"),
        ("tokens of ended runs", "mask=alive[:, None] & inside", "mask=begins[:, None] & inside"),
        ("two frames a step", NEXT, "alive, frame, end, 2 * step)"),
        ("on into the next item", NEXT, "alive, frame, end + step, step)"),
        ("the last frame left out", NEXT, "alive, frame, end - step, step)"),
    ),
}  # fmt: skip

MUTANTS = tuple(
    Mutant(kernel=kernel, fault=fault, old=old, new=new)
    for kernel, faults in FAULTS.items()
    for fault, old, new in faults
)
