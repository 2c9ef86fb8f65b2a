"""The report page: painted-over tokens are the dropped ones, and text never becomes markup."""

from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lightning_apollo.pages.report import (
    DROPPED_GREY,
    DROPPED_OPACITY,
    AccuracyRow,
    ClipView,
    Exchange,
    FrameView,
    draw_losses,
    read_losses,
    view_clip,
    write_report,
)
from lightning_apollo.structures import ClipShape, Frames, VisualItem
from tests.models.samples import sample

PATCH = 2


def decode_png(frame: FrameView) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(frame.png))))


def test_dropped_blocks_are_painted_over_and_counted() -> None:
    """Two frames of two tokens, black; of the second only the left token is kept."""
    pixels = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    pixels[1, :, :, :4] = 100
    item = VisualItem(Frames(pixels, torch.tensor([0.0, 0.5], dtype=torch.float64)), "video", merge_size=2)
    view = view_clip("clip", sample(item, patch_size=PATCH), torch.tensor([True, True, True, False]), [])
    first, second = view.frames
    assert [(f.seconds, f.num_kept, f.num_tokens) for f in view.frames] == [(0.0, 2, 2), (0.5, 1, 2)]
    assert (view.num_kept, view.num_tokens) == (3, 4)
    assert not decode_png(first).any()
    picture = decode_png(second)
    left, right = np.split(picture, 2, axis=1)
    assert (left == 100).all()
    assert (right == round(DROPPED_GREY * DROPPED_OPACITY)).all()


def test_an_image_has_no_time() -> None:
    item = VisualItem(Frames(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1).double()), "image", 1)
    view = view_clip("image", sample(item, patch_size=PATCH), None, [])
    assert [frame.seconds for frame in view.frames] == [None]


def test_frames_of_clips_say_which_clip_they_belong_to(tmp_path: Path) -> None:
    """Two clips of two frames, which lie wider than they are high, and 3 tokens each: counted once, at the first frame."""
    shape = ClipShape(num_frames=2, num_tokens=3, image_size=8)
    frames = Frames(torch.zeros(4, 3, 4, 8, dtype=torch.uint8), torch.arange(4).double() / 2)
    item = VisualItem(frames, "video", 1, clip=shape)
    view = view_clip("clip", sample(item, patch_size=PATCH), None, [])
    assert [(frame.seconds, frame.clip, frame.num_kept) for frame in view.frames] == [
        (0.0, 1, 3),
        (0.5, 1, 0),
        (1.0, 2, 3),
        (1.5, 2, 0),
    ]
    assert {decode_png(frame).shape[:2] for frame in view.frames} == {(112, 224)}
    write_report(tmp_path / "report.html", title="T", facts={}, clips=[view])
    page = (tmp_path / "report.html").read_text()
    assert "6 visual tokens<" in page
    assert page.count("clip 2<") == 2
    assert "painted over" not in page


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    clip = ClipView(hostile, (FrameView("AAAA", 1.5, 1, 2),), (Exchange("Which?", hostile, "red"),))
    path = tmp_path / "report.html"
    write_report(
        path,
        title="T",
        facts={"recipe": "tiny"},
        clips=[clip],
        score_head=["full"],
        scores=[AccuracyRow("first colour", (0.934,))],
        loss_svg=draw_losses({"full": [2.0, 1.0] * 20}, [20]),
    )
    page = Tags()
    page.feed(path.read_text())
    assert not [tag for tag, _ in page.seen if tag in ("script", "link", "iframe")]
    sources = [attributes["src"] for tag, attributes in page.seen if tag == "img"]
    assert sources == ["data:image/png;base64,AAAA"]
    assert hostile in page.text
    assert "0.93" in page.text
    assert "1.5 s" in page.text
    assert any(tag == "svg" for tag, _ in page.seen)


def test_losses_of_several_stages_follow_each_other(tmp_path: Path) -> None:
    for name, rows in (("a", "loss,step\n3.0,0\n,1\n2.5,2\n"), ("b", "loss,step\n1.5,0\n")):
        (tmp_path / f"{name}.csv").write_text(rows)
    assert read_losses([tmp_path / "a.csv", tmp_path / "b.csv"]) == [3.0, 2.5, 1.5]
