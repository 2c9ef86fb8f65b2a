"""Conversion of published row forms that are no conversations yet.

A conversion takes what it knows of a row and returns the conversation with the rest of the row, so that a key that it
does not know is still seen. Media stay under `image`, `images`, `video` and `videos`; without a marker in the text they are
shown before the first question. Data sets of captions have no questions: theirs are the constants below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_apollo.data.conversation import RowError

VIDEO_QUESTION = (
    "Elaborate on the visual and narrative elements of the video in detail."  # NVlabs/VILA, llava/data/dataset.py
)
IMAGE_QUESTION = (
    "Describe this image in detail"  # of allenai/molmo2, olmo/preprocessing/data_formatter.py, "long_caption"
)

PublishedRow = dict[str, object]

_CONTENT_KEYS = {"image": ("jpg", "jpeg", "png", "webp"), "video": ("mp4", "webm", "avi", "mkv")}  # names of columns
_WHOLE_VIDEO = "-1"  # the caption of ShareGPT4Video that is of no single key frame


def sharegpt4video(row: PublishedRow) -> PublishedRow:
    """A caption of each key frame and one of the whole video, which is learnt."""
    path, captions = row.pop("video_path"), _objects(row.pop("captions"), "captions", ("idx", "content"))
    whole = [caption["content"] for caption in captions if str(caption["idx"]) == _WHOLE_VIDEO]
    if len(whole) != 1:
        raise RowError(f"{len(whole)} captions with 'idx' \"-1\", the whole video's: give one")
    return {**row, "video": path, "messages": _turns([(VIDEO_QUESTION, whole[0])])}


def videochat2(row: PublishedRow) -> PublishedRow:
    """Questions and answers, and an instruction: a system turn, as in video_chat2/dataset/it_dataset.py.

    An instruction of a later question that is another one stands before that question.
    """
    pairs = _objects(row.pop("QA"), "QA", ("q", "a"))
    system = pairs[0].get("i") or ""
    asked = [
        (pair["q"] if (pair.get("i") or "") in ("", system) else f"{pair['i']}\n{pair['q']}", pair["a"])
        for pair in pairs
    ]
    if "start" in row and "end" in row:
        row |= {"start_time": row.pop("start"), "end_time": row.pop("end")}
    return {**row, "messages": _turns(asked, system)}


def finevision(row: PublishedRow) -> PublishedRow:
    """Pairs of `user` and `assistant`, all images before the first, as nanoVLM's data/datasets.py shows them."""
    pairs = _objects(row.pop("texts"), "texts", ("user", "assistant"))
    return {**row, "messages": _turns([(pair["user"], pair["assistant"]) for pair in pairs])}


def alpaca(row: PublishedRow) -> PublishedRow:
    """Earlier rounds, then `instruction` and `input` on lines of their own, answered by `output`."""
    question = "\n".join(str(part) for part in (row.pop("instruction"), row.pop("input", "")) if part)
    rounds = row.pop("history", []) or []
    if not isinstance(rounds, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in rounds):
        raise RowError("'history' is no list of [question, answer] pairs: correct it")
    pairs = [*((asked, answer) for asked, answer in rounds), (question, row.pop("output"))]
    messages = _turns(pairs, row.pop("system", ""))
    return {**row, "messages": messages}


def image_caption(row: PublishedRow) -> PublishedRow:
    """A picture and its caption."""
    caption = row.pop("caption")
    return {**row, "messages": _turns([(IMAGE_QUESTION, caption)])}


def video_caption(row: PublishedRow) -> PublishedRow:
    """A video and its caption: the longest of Molmo2-Cap's, or what stands under `caption`."""
    caption = row.pop("video_frame_merged_caption", None) or row["caption"]
    row.pop("caption", None)
    return {**row, "messages": _turns([(VIDEO_QUESTION, caption)])}


def question_and_answer(row: PublishedRow) -> PublishedRow:
    """A single question, in the spelling of Molmo2-AskModelAnything or Molmo2-VideoCapQA."""
    keys = ("question", "answer") if "question" in row else ("Question", "Answer")
    question, answer = (row.pop(key) for key in keys)
    return {**row, "messages": _turns([(question, answer)])}


def downloaded(row: PublishedRow) -> PublishedRow:
    """A row of img2dataset's or video2dataset's output with the place of its media under `image` or `video`.

    That is the column with their bytes, the members beside the row, or SHARD/KEY.jpg and SHARD/KEY.mp4 in the folder
    of the output, where SHARD is the first five digits of the key.
    """
    key, status = row.pop("key"), row.pop("status")
    if status != "success":
        raise RowError(f"status {str(status)!r:.40}: nothing was downloaded for this row, remove it")
    for modality, columns in _CONTENT_KEYS.items():
        content = [row.pop(column) for column in columns if column in row]
        if content and modality not in row:
            row[modality] = content[0]
    if "image" not in row and "video" not in row:
        is_picture = "original_width" in row  # which img2dataset alone writes
        modality, suffix = ("image", "jpg") if is_picture else ("video", "mp4")
        row[modality] = f"{str(key)[:5]}/{key}.{suffix}"
    return row


def _turns(pairs: Sequence[tuple[object, object]], system: object = "") -> list[PublishedRow]:
    turns: list[PublishedRow] = [{"role": "system", "content": system}] if system else []
    for question, answer in pairs:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns


def _objects(value: object, key: str, names: Sequence[str]) -> list[Mapping[str, object]]:
    items: list[Mapping[str, object]] = value if isinstance(value, list) else []
    if not items or any(not isinstance(item, dict) or any(name not in item for name in names) for item in items):
        raise RowError(f"{key!r} is no list of objects with {' and '.join(map(repr, names))}: correct it")
    return items
