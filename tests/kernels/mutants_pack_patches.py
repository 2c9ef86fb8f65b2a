"""Faults planted in pack_patches.py, one at a time; its tests must notice each."""

from verification.mutants import Mutant

KERNEL = "_pack_kernel"

MUTANTS = tuple(
    Mutant(kernel=KERNEL, fault=fault, old=old, new=new)
    for fault, old, new in (
        ("one patch past the item", "patch < in_item", "patch <= in_item"),
        ("the last patch left out", "patch < in_item", "patch + 1 < in_item"),
        ("padding of the area not masked", "(area < AREA)", "(area < BLOCK_AREA)"),
        ("the last pixel left out", "(area < AREA)", "(area < AREA - 1)"),
        ("every tile starts its item", "tl.load(tile + FIRST).to", "(tl.load(tile + FIRST) * 0).to"),
        ("32-bit programs", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
        ("32-bit patches", "out = start + patch", "out = (start + patch).to(tl.int32)"),
        ("32-bit bytes of the item", "first_byte = start *", "first_byte = start.to(tl.int32) *"),
        ("items by their first token", "tile + PATCH_START", "tile + 1"),
        ("segments by their first patch", "tl.load(tile + FRAME_START)", "start"),
        ("segments one frame late", "tl.load(tile + FRAME_START) + frame", "tl.load(tile + FRAME_START) + frame + 1"),
        ("one segment an item", "tl.load(tile + FRAME_START) + frame", "tl.load(tile + FRAME_START) + frame * 0"),
        ("every frame is the item's first", "+ frame * (3 * channel_bytes)", "+ frame * 0"),
        ("frames of one channel", "frame * (3 * channel_bytes)", "frame * channel_bytes"),
        ("raster order", "band * merge + place % (merge * merge) // merge", "patch % in_frame // columns"),
        ("tokens in columns", "place % (merge * merge) // merge", "place % merge"),
        ("columns of the first token", "place // (merge * merge) * merge + place % merge", "place % merge"),
        ("bands of one row of patches", "in_band = columns * merge", "in_band = columns"),
        ("positions as column and row", "tl.join(row, column)", "tl.join(column, row)"),
        ("patches from the column's row", "row * (line_bytes * PATCH) + column", "column * (line_bytes * PATCH) + row"),
        ("rows one line apart", "row * (line_bytes * PATCH)", "row * line_bytes"),
        ("columns one pixel apart", "+ column * PATCH", "+ column"),
        ("lines of the patch, not of the image", "area // PATCH * line_bytes", "area // PATCH * PATCH"),
        ("patches transposed", "area // PATCH * line_bytes + area % PATCH", "area % PATCH * line_bytes + area // PATCH"),
        ("blue first", "channel * channel_bytes", "(2 - channel) * channel_bytes"),
        ("grey pictures", "channel * channel_bytes", "0 * channel_bytes"),
        ("channels interleaved", "3 * AREA) + channel * AREA", "3 * AREA) + channel"),
        ("the mean added", "(value - offset) * scale", "(value + offset) * scale"),
        ("scaled first", "(value - offset) * scale", "value * scale - offset"),
        ("rounded before the scale", "(value - offset) * scale", "(value - offset).to(tl.bfloat16).to(tl.float32) * scale"),
        ("signed bytes", "other=0).to(tl.float32)", "other=0).to(tl.int8).to(tl.float32)"),
        ("a load without its mask", "mask=bulk_mask, other=0).to(tl.float32)", ").to(tl.float32)"),
        ("a masked load without other", "mask=bulk_mask, other=0)", "mask=bulk_mask)"),
        ("a store without its mask", "value.to(patches_out.dtype.element_ty), mask=bulk_mask)",
         "value.to(patches_out.dtype.element_ty))"),
    )
)  # fmt: skip
