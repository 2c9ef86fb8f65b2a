"""Chat page for videos and pictures, with the frames and tokens that the model saw. Needs gradio.

the page (gradio) ─> UploadGuard: which requests pass ─> `_Page.ask` ─> chat_session: questions and answers
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np
from gradio.themes import Default
from PIL import Image
from starlette.middleware import Middleware

from lightning_apollo.data.conversation import Message, TextPart
from lightning_apollo.data.media.config import SupervisionConfig
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.data.media.supervisor import SupervisedReader
from lightning_apollo.inference.chat.guard import UploadGuard
from lightning_apollo.inference.chat.session import Chat, ChatError, ChatReply, Seen, read_question, stream_reply
from lightning_apollo.inference.chat.uploads import is_known_media
from lightning_apollo.inference.generate import GREEDY, DrawConfig
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.pages.report import PaintedFrame

FRAME_PIXELS = (192, 448)  # the longer side of a frame on the page: enlarged to about the first, reduced to the second
MAX_WAITING = 16  # questions in the queue; one is answered at a time
FORGET_SECONDS = 24 * 3600  # after which an uploaded file is deleted, where the server still runs

_CSS = """
.gradio-container { max-width: 1400px !important; width: 100% !important; margin: auto; }
#conversation video, #conversation img { height: 120px; width: auto; }
#conversation button[aria-label="Share"], footer { display: none !important; }
#frames .grid-container { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); }
#frames .thumbnail-item { aspect-ratio: auto; display: flex; flex-direction: column; }
#frames img { image-rendering: pixelated; }
#frames .grid-container .caption-label { position: static; width: 100%; max-width: none; border: 0; text-align: center;
  font-size: 0.75rem; }
#facts dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 0; }
#facts dt { opacity: 0.7; } #facts dd { margin: 0; font-variant-numeric: tabular-nums; }
#facts p { margin: 0.5rem 0 0; opacity: 0.7; font-size: 0.85rem; }
"""
_HELLO = "Add a video or pictures below, then ask. Every answer sees all turns before it."
_NOTHING_SEEN = "<p>Frames and counts appear here with the first answer.</p>"
_LEGEND = "<p>Below each frame: its time, and its visual tokens.</p>"
_LEGEND_REDUCED = (
    "<p>Below each frame: its time, and the visual tokens kept of all. What is greyed out was dropped.</p>"
)


@dataclass(frozen=True)
class ChatConfig:
    """Options of the server and of its answers."""

    title: str = "lightning-apollo"
    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860 on
    share: bool = False  # a public address through gradio's servers, for which gradio downloads a program
    max_upload_mb: int = 200  # of all files that are uploaded together; MB of 10^6 bytes
    examples: Path | None = None  # folder of videos and pictures to choose from
    max_new_tokens: int = 256
    draw: DrawConfig = GREEDY


def run_chat(trained: TrainedModel, config: ChatConfig, say: Callable[[str], None]) -> None:
    """Serve the page until SIGTERM, or Ctrl-C, after which it ends with 130; `say` gets its address.

    OSError where the port is taken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the uploads are deleted then too
    try:
        with serve_page(trained, config) as address:
            say(f"{address}  (Ctrl-C ends it)")
            threading.Event().wait()
    except KeyboardInterrupt:
        say("ended, uploads deleted")
        raise SystemExit(130) from None


@contextmanager
def serve_page(trained: TrainedModel, config: ChatConfig) -> Iterator[str]:
    """The page is there inside the `with`; its address comes back, that of the tunnel with `share`.

    Uploads lie in a folder that is deleted at the end. OSError where the port is taken.
    """
    reader: MediaReader = DirectReader()
    if sys.platform == "linux":  # elsewhere a file that crashes FFmpeg ends the server
        reader = SupervisedReader(reader, SupervisionConfig())
    preparer = replace(trained.preparer, reader=reader)
    with TemporaryDirectory(prefix="lightning_apollo_chat_") as folder:
        uploads = Path(folder).resolve()
        settings = {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
        with _environment(settings):
            page = _Page(replace(trained, preparer=preparer), config, uploads).build()
            try:
                yield _launch(page, config, uploads)
            finally:
                page.close(verbose=False)


def _launch(page: gr.Blocks, config: ChatConfig, uploads: Path) -> str:
    """Start the server behind its guard and return the address."""
    max_upload_bytes = config.max_upload_mb * 10**6
    guard = Middleware(UploadGuard, folder=uploads, max_upload_bytes=max_upload_bytes)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    _, local, public = page.launch(
        server_name=config.host,
        server_port=config.port,
        share=config.share,
        max_file_size=max_upload_bytes,
        app_kwargs={"middleware": [guard]},
        css=_CSS,
        theme=Default(),  # its fonts come with gradio
        footer_links=[],
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
    )
    return public or local


@dataclass(frozen=True)
class _Page:
    trained: TrainedModel
    config: ChatConfig
    uploads: Path  # resolved

    def build(self) -> gr.Blocks:
        """Two columns: the conversation, and what the model saw.

        The conversation is an output alone, kept on the server. As an input, gradio would build components from what a
        client sends.
        """
        examples = _find_examples(self.config.examples)
        page = gr.Blocks(
            title=self.config.title, analytics_enabled=False, fill_width=True, delete_cache=(3600, FORGET_SECONDS)
        )
        with page:
            chat = gr.State(Chat())
            gr.Markdown(f"## {self.config.title}")
            with gr.Row():
                with gr.Column(scale=3, min_width=420):
                    shown = gr.Chatbot(
                        show_label=False, placeholder=_HELLO, height=480, buttons=["copy"], elem_id="conversation"
                    )
                    box = gr.MultimodalTextbox(
                        placeholder="Ask about the video ...",
                        show_label=False,
                        file_count="multiple",
                        file_types=["video", "image"],
                        autofocus=True,
                        elem_id="question",
                    )
                    choice = gr.Dropdown(
                        list(examples), value=None, label="Or choose a clip", visible=bool(examples), elem_id="examples"
                    )
                with gr.Column(scale=2, min_width=360):
                    gr.Markdown("### What the model saw")
                    facts = gr.HTML(_NOTHING_SEEN, elem_id="facts")
                    frames = gr.Gallery(
                        show_label=False, columns=4, height=420, format="jpeg", buttons=["fullscreen"], elem_id="frames"
                    )
            quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
            outputs = [box, shown, chat, facts, frames]
            asking = box.submit(self.ask, [box, chat], outputs, **quiet)
            box.stop(_ready_box, None, box, cancels=[asking], queue=False, **quiet)
            choice.input(self._take_example(examples), [choice, box], box, queue=False, **quiet)
            shown.clear(_cleared, None, outputs, cancels=[asking], queue=False, **quiet)
        return page

    def ask(self, box: dict[str, Any], chat: Chat) -> Iterator[tuple[Any, ...]]:
        """Yield values for the box, the conversation, its state, the facts and the frames as the answer is written.

        What cannot be answered goes back into the box, with one message why.
        """
        waiting = [*_turns(chat.messages), {"role": "user", "content": box["text"]}]
        yield _busy_box(), waiting, gr.skip(), gr.skip(), gr.skip()
        try:
            asked = read_question(self.trained, box["text"], box["files"], self.uploads)
            yield gr.skip(), _turns((*chat.messages, asked)), gr.skip(), gr.skip(), gr.skip()
            for reply in stream_reply(self.trained, chat, asked, self.config.max_new_tokens, self.config.draw):
                longer = chat.answered(asked, reply.text)
                frames = _gallery(reply.seen) if reply.num_tokens <= 1 else gr.skip()
                yield gr.skip(), _turns(longer.messages), longer, _facts(reply), frames
            yield _ready_box(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        except ChatError as error:
            gr.Warning(str(error), duration=None)
            yield _ready_box(box), _turns(chat.messages), gr.skip(), gr.skip(), gr.skip()

    def _take_example(self, examples: dict[str, Path]) -> Callable[[str | None, dict[str, Any]], Any]:
        def take(name: str | None, box: dict[str, Any]) -> Any:
            if name is None:
                return gr.skip()
            copy = self.uploads / "examples" / name
            if not copy.exists():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(examples[name], copy)
            return {"text": box["text"], "files": [str(copy)]}

        return take


def _find_examples(folder: Path | None) -> dict[str, Path]:
    """The videos and pictures of a folder by name."""
    if folder is None:
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and is_known_media(path)}


def _busy_box() -> Any:
    return gr.MultimodalTextbox(None, submit_btn=False, stop_btn=True)


def _ready_box(value: dict[str, Any] | None = None) -> Any:
    if value is None:
        return gr.MultimodalTextbox(submit_btn=True, stop_btn=False)
    return gr.MultimodalTextbox(value, submit_btn=True, stop_btn=False)


def _cleared() -> tuple[Any, ...]:
    return gr.MultimodalTextbox(None, submit_btn=True, stop_btn=False), None, Chat(), _NOTHING_SEEN, None


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The conversation as gradio shows it."""
    return [
        {
            "role": message.role,
            "content": [part.text or "(no answer)" if isinstance(part, TextPart) else {"path": part.path}],
        }
        for message in messages
        for part in message.parts
    ]


def _facts(reply: ChatReply) -> str:
    """Numbers alone: nothing that a file or a person wrote gets into this HTML."""
    seen, speed, cut = reply.seen, reply.tokens_per_second, ", stopped at --max-new-tokens" * reply.is_cut
    kept = "" if seen.num_kept_tokens == seen.num_visual_tokens else f", {seen.num_kept_tokens:,} after reduction"
    rows = {
        "Frames": f"{len(seen.frames):,}",
        "Text tokens": f"{seen.num_text_tokens:,}",
        "Visual tokens": f"{seen.num_visual_tokens:,}{kept} (budget {seen.token_budget:,})",
        "First token": f"{reply.first_token_seconds:.2f} s",
        "Answer tokens": f"{reply.num_tokens:,}{cut}" + (f", {speed:.1f} a second" if speed else ""),
    }
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    return f"<dl>{cells}</dl>{_LEGEND_REDUCED if kept else _LEGEND}"


def _gallery(seen: Seen) -> list[tuple[Image.Image, str]]:
    return [(_picture(frame), _caption(frame)) for frame in seen.frames]


def _picture(frame: PaintedFrame) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame.pixels.permute(1, 2, 0).numpy()))
    smallest, largest = FRAME_PIXELS
    if scale := smallest // max(picture.size):
        return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.thumbnail((largest, largest))
    return picture


def _caption(frame: PaintedFrame) -> str:
    when = "picture" if frame.seconds is None else f"{frame.seconds:.1f} s"
    if frame.clip is not None:
        return f"{when} · clip {frame.clip}"
    return f"{when} · {frame.num_kept}/{frame.num_tokens}"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The variables of the environment have these values inside the `with`; gradio reads its settings there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
