"""Known keys of rows, turns and parts. The fix for each unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from lightning_apollo.data.annotations import segments
from lightning_apollo.data.conversation import MediaPart, Message, RowError

REFUSE, IGNORE = "refuse", "ignore"  # values of data.unknown_keys

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
LOSS_KEYS = ("loss", "train", "training", "trainable", "weight")

# Where a row comes from, how good it is, and facts of its files that their headers state anyway
_METADATA = frozenset(
    [
        "id",
        "ids",
        "idx",
        "index",
        "key",
        "uid",
        "uuid",
        "guid",
        "qid",
        "hash",
        "sha256",
        "md5",
        "source",
        "sources",
        "data_source",
        "datasource",
        "dataset",
        "dataset_name",
        "data_name",
        "origin",
        "provider",
        "version",
        "revision",
        "license",
        "licence",
        "copyright",
        "attribution",
        "author",
        "authors",
        "annotator",
        "contributor",
        "split",
        "subset",
        "partition",
        "domain",
        "category",
        "categories",
        "subcategory",
        "task",
        "tasks",
        "task_name",
        "task_type",
        "kind",
        "type",
        "data_type",
        "question_type",
        "topic",
        "topics",
        "tag",
        "tags",
        "keywords",
        "difficulty",
        "level",
        "language",
        "lang",
        "locale",
        "score",
        "scores",
        "quality",
        "rating",
        "ratings",
        "confidence",
        "similarity",
        "width",
        "height",
        "size",
        "sizes",
        "image_size",
        "image_sizes",
        "video_size",
        "aspect_ratio",
        "resolution",
        "duration",
        "video_duration",
        "length",
        "num_turns",
        "num_tokens",
        "token_count",
        "text_length",
        "file_size",
        "codec",
        "modality",
        "title",
        "model",
        "model_name",
        "generator",
        "date",
        "created",
        "created_at",
        "creation_time",
        "updated_at",
        "upload_date",
        "metadata",
        "meta",
        "extra",
        "extra_info",
        "info",
        "misc",
        "comment",
        "comments",
        "note",
        "notes",
    ]
)
_METADATA_ENDING = re.compile(
    r"(?:_ids?|_idx|_index|_score|_source|_dataset|_licen[sc]e|_hash|_sha256|_md5|_width|_height|_size)$|^__"
)
# Names of media, which are metadata beside files that the row shows; alone they say that a file is missing
_MEDIA_NAME = re.compile(r"^(?:image|img|picture|photo|video|vid|clip|youtube|yt|coco|flickr)_(?:id|ids|idx|index)$")
_URL = re.compile(r"(?:^|_)urls?$")
_MEDIA_URL = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|mp4|m4v|mov|mkv|webm|avi)(?:$|[?#])", re.IGNORECASE)
_MEDIA_KEY = re.compile(
    r"^(?:image|img|picture|photo|video|vid|frame|media|depth)s?_?"
    r"(?:\d+|paths?|files?|file_?names?|names?|lists?|dirs?|folders?|urls?|data|bytes|base64)$",
    re.IGNORECASE,
)

_SOUND = "remove it, models hear no sound"
_MEDIA = "list files in 'image' or 'video'"
_BOXES = "write them into the text"
_LOSS = 'give "loss": true or false in turns of the assistant'
_TOOLS = "write tools and their calls into the text of turns"
_PREFERENCE = "keep the answer to learn as a turn, and remove it"
_TEXT = "write it into the text of a turn"
_FRAMES = "give 'fps' or 'max_frames'; data.budget sets the size of frames"
_TIMES = "give 'start_time' and 'end_time', in seconds from the start of the video"
_TURNS = "keep one list of turns"

_FIXES = {
    key: fix
    for keys, fix in (
        ("audio audios audio_path audio_paths audio_file audio_url sound sounds speech wav asr", _SOUND),
        (
            "img imgs picture pictures photo photos vid vids frames frame media file files file_name file_names "
            "filename filenames path paths bytes depth depths thumbnail",
            _MEDIA,
        ),
        (
            "objects object bbox bboxes box boxes ref refs point points keypoints polygon polygons segmentation "
            "mask masks region regions annotations gt_boxes",
            _BOXES,
        ),
        (
            "loss train training trainable weight weights masked loss_mask loss_weight loss_scale sample_weight "
            "train_on_input train_on_inputs train_on_prompt train_detail training_detail mask_history mask_inputs",
            _LOSS,
        ),
        ("tools tool functions function function_call tool_calls tool_choice tool_call_id", _TOOLS),
        (
            "chosen rejected rejected_response rejected_responses rejected_images rejected_messages chosen_response "
            "preferred negative negatives label kto_tag reward",
            _PREFERENCE,
        ),
        (
            "response responses answer answers question questions instruction input output prompt query history "
            "completion target text caption captions options choices candidates solution ground_truth hint context "
            "reasoning reasoning_content thinking rationale explanation subtitle subtitles transcript ocr",
            _TEXT,
        ),
        (
            "nframes num_frames n_frames min_frames frame_count num_segments min_pixels max_pixels total_pixels "
            "resized_height resized_width sampling sample_rate frame_rate video_fps target_fps detail",
            _FRAMES,
        ),
        (
            "timestamp timestamps segments clips spans window windows interval intervals start_frame end_frame "
            "start_ms end_ms start_end times frame_times",
            _TIMES,
        ),
        ("time", "give \"stream\": true, with timed turns under 'conversation'"),
        ("image images video videos", "name files in the row, or in parts of the content of a user's turn"),
        ("conversation conversations messages turns dialog dialogue", _TURNS),
        (" ".join(SYSTEM_KEYS), "give it once in the row, or as a turn of the system"),
        (" ".join(segments.KEYS), "give it in the row, or beside the video in a part of type 'video'"),
    )
    for key in keys.split()
}


@dataclass(frozen=True)
class Schema:
    """Keys of one kind of object that are read."""

    place: str  # "a turn"; empty: the row itself
    read: frozenset[str]


_PART = frozenset(("type", "path", "url"))
_ROW = frozenset(("stream", "image", "images", "video", "videos", *SYSTEM_KEYS, *segments.KEYS))
CONVERSATIONS = Schema("", _ROW | {"conversations"})
MESSAGES = Schema("", _ROW | {"messages"})
STREAM = Schema("a stream", _ROW - {"image", "images"} | {"conversation"})
TURN = Schema("a turn", frozenset(("from", "value", *LOSS_KEYS)))
CHAT_TURN = Schema("a turn", frozenset(("role", "content", *LOSS_KEYS)))
STREAM_TURN = Schema("a turn", CHAT_TURN.read | {"time"})
TEXT_PART = Schema("a part of type 'text'", frozenset(("type", "text")))
IMAGE_PART = Schema("a part of type 'image'", _PART | {"image", "image_url"})
VIDEO_PART = Schema("a part of type 'video'", _PART | {"video", "video_url"} | segments.KEYS)
IMAGE = Schema("an image", frozenset(("path", "url")))
VIDEO = Schema("a video", IMAGE.read | segments.KEYS)


@dataclass
class KeyCheck:
    """Refuse the keys of one row that are not read, or note them where the recipe ignores them."""

    mode: str = REFUSE  # REFUSE or IGNORE
    ignored: list[str] = field(default_factory=list)  # "tools", "name in a turn"
    _media_names: list[tuple[str, Schema]] = field(default_factory=list)

    def __call__(self, fields: Mapping[str, object], schema: Schema) -> None:
        if fields.keys() <= schema.read:
            return
        rest = fields.keys() - schema.read - _METADATA
        for key, value in fields.items() if rest else ():
            if key not in rest:
                continue
            if _is_media_name(key, value):
                self._media_names.append((key, schema))
            elif not _is_empty(key, value) and not _is_metadata(key, value):
                self._refuse(key, schema)

    def end(self, messages: Iterable[Message]) -> None:
        """To be called with the turns of the row: names of media are refused where these show none."""
        if self._media_names and not any(isinstance(part, MediaPart) for message in messages for part in message.parts):
            for key, schema in self._media_names:
                self._refuse(key, schema)

    def _refuse(self, key: str, schema: Schema) -> None:
        place = f" in {schema.place}" if schema.place else ""
        if self.mode == IGNORE:
            self.ignored.append(f"{key}{place}")
            return
        raise RowError(f"{key!r:.40}{place} is not read: {_fix(key, schema)}, or set data.unknown_keys=ignore")


@lru_cache(maxsize=4096)  # a column that is refused is refused in every row
def _fix(key: str, schema: Schema) -> str:
    if key in _FIXES:
        return _FIXES[key]
    if _MEDIA_KEY.match(key) or _MEDIA_NAME.match(key) or _URL.search(key):
        return _MEDIA
    close = difflib.get_close_matches(key.lower(), sorted(schema.read), n=1, cutoff=0.8)
    return f"did you mean {close[0]!r}?" if close else "rename or remove it"


def _is_empty(key: str, value: object) -> bool:
    """Say nothing, as tables fill the columns that a row has no use for."""
    return value is None or value in ("", [], {}) or (key == "detail" and value == "auto")


def _is_media_name(key: str, value: object) -> bool:
    if _URL.search(key):
        return isinstance(value, str) and value.startswith(("http://", "https://")) and bool(_MEDIA_URL.search(value))
    return _MEDIA_NAME.match(key) is not None


def _is_metadata(key: str, value: object) -> bool:
    if _URL.search(key):
        return isinstance(value, str) and value.startswith(("http://", "https://"))
    return key not in _FIXES and _METADATA_ENDING.search(key) is not None
