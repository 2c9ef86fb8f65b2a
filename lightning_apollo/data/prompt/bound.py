"""Upper bound on the length of a prompt, from the plans of its media: no tokenizer is asked.

No token of text is shorter than a byte. Counted are the bytes that `template.lay_out` writes, with the longest time that
a frame or clip of the plan can have in the place of each, and its special tokens and placeholders one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_apollo.data.conversation import Conversation, TextPart
from lightning_apollo.data.prompt.clip_text import clock, series
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.sampling.media_plan import MediaPlan

_TURN = 2 + len("\n\n")  # special tokens at both ends, line breaks behind the role and behind the turn
_STREAM_TURN = _TURN + len("stream")
_LONGEST_SPAN = 11  # characters of a clip's seconds in the released sentence, which has six digits of them: 1.23457e+06


def longest_prompt(
    conversation: Conversation,
    plans: Sequence[MediaPlan],
    patch_size: int,
    system_prompt: str,
    clip_text: ClipTextConfig,
) -> int:
    """A number of tokens that the sample cannot pass, whatever its tokenizer and wherever its frames really begin."""
    turns, is_stream = conversation.messages, any(turn.role == "stream" for turn in conversation.messages)
    text = [part.text for turn in turns for part in turn.parts if isinstance(part, TextPart)]
    length = sum(len(piece.encode()) for piece in (system_prompt, *text))
    length += sum(_TURN + len(role) for role in ("system", *(turn.role for turn in turns)))
    for plan in plans:
        length += plan.num_tokens(patch_size)
        if plan.clip is not None:
            length += _around_clips(plan, clip_text)
        elif is_stream:
            num_turns = plan.num_runs if plan.has_frame_turns else len(turns) + 1
            length += plan.num_runs * len(f"Time {_longest_time(plan)}s: \n") + num_turns * _STREAM_TURN
        elif plan.modality == "video":
            length += plan.num_runs * len(f",Time {_longest_time(plan)}s:") + len("\n")
        else:
            length += len("\n")
    return length


def _around_clips(plan: MediaPlan, config: ClipTextConfig) -> int:
    length = len(config.closing) + 2 * plan.num_runs * config.has_bounds
    if plan.modality == "image" or not config.has_stamps:
        return length
    if config.times == "paper":
        longest = max(map(len, map(clock, _extremes(plan))))
        return length + plan.num_runs * (len("\nclip from -:") + 2 * longest)
    sentence = len(series(plan.num_runs, plan.info.duration_seconds, clip_seconds=0.0)) + _LONGEST_SPAN
    return length + sentence + plan.num_runs * (len(",\n- seconds: ") + 2 * len(_longest_time(plan)))


def _longest_time(plan: MediaPlan) -> str:
    return max((f"{seconds:.1f}" for seconds in _extremes(plan)), key=len)


def _extremes(plan: MediaPlan) -> tuple[float, float]:
    """The earliest and latest time that the prompt can hold: of a frame before a moment, and of a clip's end."""
    begin, end = plan.info.begin_seconds - plan.zero_seconds, plan.end_seconds - plan.zero_seconds
    stamps = plan.stamps
    return min(begin, float(stamps.min())), max(end, float(stamps.max()))
