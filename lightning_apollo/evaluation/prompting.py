"""Prompts of questions, made by the preparer of the training. Subtitles follow the frames that are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.evaluation.question import Question, Subtitle
from lightning_apollo.structures import Frames, Sample, VisualItem

_HEADING = "This video's subtitles are listed below:\n"  # Video-MME's own, and VideoLLaMA 3's


def conversation_of(question: Question, parts: tuple[TextPart | MediaPart, ...] | None = None) -> Conversation:
    """The question as the one turn of a conversation, with other parts where they are given."""
    return Conversation(question.question_id, "benchmark", (Message("user", parts or question.parts),))


def build_prompt(question: Question, preparer: Preparer, root: Path) -> Sample:
    """The sample that asks the question; MediaError for unreadable media, ValueError where it cannot be shown.

    Subtitles that no shown frame belongs to are left out, so that a model that is shown nothing gets none.
    """
    if not question.subtitles:
        return preparer.prompt(conversation_of(question), root)
    if question.subtitle_placement == "above":
        return preparer.prompt(_with_subtitles_above(question, preparer, root), root)
    return _with_subtitles_between(question, preparer, root)


def _with_subtitles_above(question: Question, preparer: Preparer, root: Path) -> Conversation:
    """The question with the subtitle that is spoken while each frame plays in front of its text, for every frame anew.

    As VideoLLaMA 3 asks Video-MME (evaluation/benchmarks/videomme.py), but for a heading above no subtitle at all.
    """
    _, plans = preparer.plan(conversation_of(question), root)
    moments = [moment for plan in plans if plan is not None for moment in plan.player_seconds.tolist()]
    spoken = (next((said for said in question.subtitles if _is_shown(said, [moment])), None) for moment in moments)
    lines = [subtitle.text for subtitle in spoken if subtitle is not None]
    if not lines:
        return conversation_of(question)
    above = _HEADING + "\n".join(lines) + "\n"
    *media, text = question.parts
    assert isinstance(text, TextPart)  # the question stands behind what it is about
    return conversation_of(question, (*media, TextPart(above + text.text)))


def _with_subtitles_between(question: Question, preparer: Preparer, root: Path) -> Sample:
    """The prompt with the video cut where subtitles come, each in front of the first frame after its middle.

    The frames are those of the whole video: it is prepared first and cut then. No line break follows a subtitle, as
    VideoLLaMA 3 asks LongVideoBench (evaluation/benchmarks/longvideobench.py).
    """
    whole = preparer.prompt(conversation_of(question), root)
    if not whole.visuals:
        return whole
    (item,) = whole.visuals
    (video,) = question.media
    begins = _begins_of_runs(item)
    moments = (item.frames.pts_seconds - item.zero_seconds).tolist()
    parts: list[TextPart | MediaPart] = []
    items: list[VisualItem] = []
    shown = 0
    for subtitle in sorted(question.subtitles, key=_middle):
        if not _is_shown(subtitle, moments):
            continue
        due = sum(begin <= _middle(subtitle) for begin in begins.tolist())
        if due > shown:
            parts.append(video)
            items.append(_runs(item, shown, due))
            shown = due
        parts.append(TextPart(subtitle.text))
    if shown < len(begins):
        parts.append(video)
        items.append(_runs(item, shown, len(begins)))
    rest = tuple(part for part in question.parts if part is not video)
    conversation = conversation_of(question, (*parts, *rest))
    return preparer.settings.render_prompt(conversation, items)


def _is_shown(subtitle: Subtitle, moments: list[float]) -> bool:
    return any(subtitle.begin_seconds < moment < subtitle.end_seconds for moment in moments)


def _middle(subtitle: Subtitle) -> float:
    return (subtitle.begin_seconds + subtitle.end_seconds) / 2


def _begins_of_runs(item: VisualItem) -> Tensor:
    """Start of each frame, or of each clip where the encoder takes clips: seconds from the start of the video."""
    return (item.frames.pts_seconds if item.spans_seconds is None else item.spans_seconds[:, 0]) - item.zero_seconds


def _runs(item: VisualItem, first: int, last: int) -> VisualItem:
    """Frames, or clips where the encoder takes clips, from `first` to before `last`."""
    length = 1 if item.clip is None or item.num_runs == len(item.frames) else item.clip.num_frames
    frames = slice(first * length, last * length)
    return replace(
        item,
        frames=Frames(item.frames.pixels[frames], item.frames.pts_seconds[frames]),
        spans_seconds=None if item.spans_seconds is None else item.spans_seconds[first:last],
    )
