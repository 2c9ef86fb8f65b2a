"""Faults planted in similarity_keep.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

FAULTS = {
    "_threshold_kernel": (
        ("32-bit frames", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("the first frame's limit", "tl.load(limits + frame)", "tl.load(limits)"),
        ("every frame is an item's first", "tl.load(line + FIRST) * num_places", "0 * num_places"),
        ("tokens start at zero", "start = tl.load(line + TOKEN_START)", "start = 0"),
        ("at the limit counts as changed", "num_changed += tl.sum((values > limit)", "num_changed += tl.sum((values >= limit)"),
        ("the last block decides", "num_changed += tl.sum", "num_changed = tl.sum"),
        ("one too few is enough", "num_changed < min_tokens", "num_changed < min_tokens - 1"),
        ("the minimum itself is too few", "num_changed < min_tokens", "num_changed < min_tokens + 1"),
        ("always forced", "tl.where(num_changed < min_tokens, min_tokens, 0)", "min_tokens"),
        ("forced up to the missing number", "min_tokens, 0)", "min_tokens - num_changed, 0)"),
        ("one forced place more", "(place < num_forced)", "(place <= num_forced)"),
        ("kept at the limit", "keep = ((values > limit)", "keep = ((values >= limit)"),
        ("changed only if forced", "(values > limit) | (place", "(values > limit) & (place"),
        ("forced places past the frame are counted", "& (place < num_places)\n", "& (place < num_places + 1)\n"),
        ("a store past the frame", "keep, mask=place < num_places)", "keep)"),
        ("the last place not stored", "keep, mask=place < num_places)", "keep, mask=place < num_places - 1)"),
        ("a masked load without other", "mask=first + block < num_places, other=-1)", "mask=first + block < num_places)"),
        ("masked lanes count as changed", "mask=first + block < num_places, other=-1)",
         "mask=first + block < num_places, other=2147483647)"),
        ("the last block's count", "num_kept += tl.sum", "num_kept = tl.sum"),
        ("counts of what changed alone", "tl.store(counts_out + frame, num_kept)", "tl.store(counts_out + frame, num_changed)"),
    ),
    "_budget_kernel": (
        ("32-bit lines of the table", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("tokens start at zero", "start = tl.load(line + TOKEN_START)", "start = 0"),
        ("32-bit tokens", "start = tl.load(line + TOKEN_START)", "start = tl.load(line + TOKEN_START).to(tl.int32)"),
        ("a digit too few at the top", "(1 << CHANGE_BITS) - 1", "(1 << (CHANGE_BITS - 1)) - 1"),
        ("the last digit left out", "range(CHANGE_BITS)", "range(CHANGE_BITS - 1)"),
        ("the first digit left out", "range(CHANGE_BITS)", "range(1, CHANGE_BITS)"),
        ("the cut of all items", "cut = tl.where(_count_above(change + start,", "cut = tl.where(_count_above(change,"),
        ("no equal ones", "num_equal = token_budget -", "num_equal = 0 * token_budget - 0 *"),
        ("all equal ones", "<= num_equal))", "<= num_tokens))"),
        ("one equal one more", "<= num_equal))", "<= num_equal + 1))"),
        ("equal ones from every frame", "num_equal -= tl.sum(equal)", "num_equal -= 0"),
        ("equal ones kept only where above", "(values > cut) | (", "(values > cut) & ("),
        ("at the cut kept always", "keep = (values > cut)", "keep = (values >= cut)"),
        ("frames overlap", "start + frame * num_places + place", "start + frame * (num_places - 1) + place"),
        ("a store past the frame", "keep, mask=place < num_places)", "keep)"),
        ("a masked load without other", "mask=place < num_places, other=-1)", "mask=place < num_places)"),
        ("the last block's count", "num_kept += tl.sum", "num_kept = tl.sum"),
        ("counts of the frame before", "first_count + frame, num_kept", "first_count + frame - 1, num_kept"),
    ),
}  # fmt: skip

MUTANTS = tuple(
    Mutant(kernel=kernel, fault=fault, old=old, new=new)
    for kernel, faults in FAULTS.items()
    for fault, old, new in faults
)
