"""Random samples, and the same samples as transformers' `video_llama_3` port wants them."""

import torch
from torch import Tensor
from transformers import (
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3VideoProcessor,
)

from lightning_apollo.models.checkpoint.load import from_port_names
from lightning_apollo.models.config import LLMConfig, ModelConfig, ReducerConfig, VisionEncoderConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import IGNORE_INDEX, Frames, PackedBatch, Sample, VisualBatch, VisualItem

PATCH, VOCABULARY = 14, 300
PLACEHOLDER, PORT_IMAGE, PORT_VIDEO = 297, 298, 299

MODEL = ModelConfig(
    vision=VisionEncoderConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, patch_size=PATCH),
    llm=LLMConfig(
        hidden_size=40,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        tokenizer="none",
        tie_word_embeddings=False,
    ),
)


def port_model() -> VideoLlama3ForConditionalGeneration:
    """The port at the sizes of MODEL, with weights large enough that every path matters."""
    vision, llm = MODEL.vision, MODEL.llm
    assert vision is not None
    config = VideoLlama3Config(
        text_config={
            "model_type": "qwen2",
            "hidden_size": llm.hidden_size,
            "num_hidden_layers": llm.num_layers,
            "num_attention_heads": llm.num_heads,
            "num_key_value_heads": llm.num_kv_heads,
            "intermediate_size": llm.intermediate_size,
            "vocab_size": llm.vocab_size,
            "rope_parameters": {"rope_type": "default", "rope_theta": llm.rope_theta},
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "intermediate_size": vision.intermediate_size,
            "patch_size": PATCH,
        },
        image_token_id=PORT_IMAGE,
        video_token_id=PORT_VIDEO,
    )
    port = VideoLlama3ForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(7)
    for parameter in port.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)
    return port.eval()


def our_model(port: VideoLlama3ForConditionalGeneration, reducer: ReducerConfig | None = None) -> VideoLMM:
    """Our model with the port's weights."""
    model = build_model(MODEL, reducer or ReducerConfig())
    model.load_state_dict(from_port_names(port.state_dict()))
    return model.eval()


def video(num_frames: int, height: int, width: int, seed: int, merge_size: int = 2, static: bool = False) -> VisualItem:
    """Noise, or noise in the left half only where `static`: the right half repeats the first frame."""
    pixels = torch.randint(0, 256, (num_frames, 3, height, width), generator=torch.Generator().manual_seed(seed))
    if static:
        pixels[:, :, :, width // 2 :] = pixels[:1, :, :, width // 2 :]
    frames = Frames(pixels.to(torch.uint8), torch.arange(num_frames, dtype=torch.float64))
    return VisualItem(frames, "video", merge_size)


def image(height: int, width: int, seed: int, merge_size: int = 1) -> VisualItem:
    item = video(1, height, width, seed, merge_size)
    return VisualItem(item.frames, "image", merge_size)


def sample(*visuals: VisualItem, num_text: int = 12, seed: int = 0, patch_size: int = PATCH) -> Sample:
    """Text, then each item's placeholders between two words, then text of which the last half is labelled."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> Tensor:
        return torch.randint(0, PLACEHOLDER, (count,), generator=generator)

    ids = [words(3)]
    for item in visuals:
        ids += [torch.full((item.num_visual_tokens(patch_size),), PLACEHOLDER), words(2)]
    ids.append(words(num_text))
    input_ids = torch.cat(ids)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    labels[-num_text // 2 :] = input_ids[-num_text // 2 :]
    return Sample(f"seed:{seed}", "test", input_ids, labels, input_ids == PLACEHOLDER, visuals, patch_size)


def pack(*samples: Sample) -> PackedBatch:
    """The batch that the collator makes, spelled out here so that the model's tests do not lean on it."""
    input_ids = torch.cat([s.input_ids for s in samples])
    labels = torch.cat([s.labels.index_fill(0, torch.tensor([0]), IGNORE_INDEX) for s in samples])
    owners = [i for i, s in enumerate(samples) for item in s.visuals for _ in range(item.num_runs)]
    return PackedBatch(
        input_ids=input_ids,
        labels=labels,
        visual_positions=torch.cat([s.is_placeholder for s in samples]).nonzero().squeeze(1),
        lengths=tuple(s.input_ids.numel() for s in samples),
        num_labels=int((labels != IGNORE_INDEX).sum()),
        run_samples=tuple(owners),
        visual=VisualBatch.from_items([item for s in samples for item in s.visuals], samples[0].patch_size),
        sample_ids=tuple(s.sample_id for s in samples),
        sources=tuple(s.source for s in samples),
        modalities=tuple(s.modality for s in samples),
    )


def port_pixels(items: list[VisualItem], use_token_compression: bool = False) -> dict[str, Tensor]:
    """The port's own processors on already resized pixels; images and videos apart, as it keeps them."""
    inputs: dict[str, Tensor] = {}
    images = [item for item in items if item.modality == "image"]
    videos = [item for item in items if item.modality == "video"]
    if images:
        assert len({item.merge_size for item in images}) == 1
        processor = VideoLlama3ImageProcessor(patch_size=PATCH, merge_size=images[0].merge_size, do_resize=False)
        inputs |= dict(processor(images=[item.frames.pixels[0] for item in images], return_tensors="pt"))
    if videos:
        processor = VideoLlama3VideoProcessor(
            patch_size=PATCH,
            merge_size=videos[0].merge_size,
            do_resize=False,
            use_token_compression=use_token_compression,
        )
        clips = [item.frames.pixels for item in videos]
        inputs |= dict(processor(videos=clips, return_tensors="pt", return_metadata=False))
    return inputs


def port_logits(port: VideoLlama3ForConditionalGeneration, one: Sample, reduce: bool = False) -> tuple[Tensor, Tensor]:
    """The port's logits at the labelled positions of one sample (L, vocabulary), and their targets (L,)."""
    inputs = port_pixels(list(one.visuals), use_token_compression=reduce)
    ids = one.input_ids.clone()
    runs = ids == PLACEHOLDER
    owner = torch.cat(
        [torch.full((item.num_visual_tokens(PATCH),), i) for i, item in enumerate(one.visuals)] or [ids[:0]]
    )
    is_video = torch.tensor([item.modality == "video" for item in one.visuals], dtype=torch.bool)[owner]
    ids[runs] = torch.where(is_video, PORT_VIDEO, PORT_IMAGE)
    keep = torch.ones_like(ids, dtype=torch.bool)
    if "video_compression_mask" in inputs:
        keep[ids == PORT_VIDEO] = inputs["video_compression_mask"]
    ids, labels = ids[keep], one.labels[keep]
    hidden = port.model(input_ids=ids[None], use_cache=False, **inputs).last_hidden_state[0]
    labelled = (labels[1:] != IGNORE_INDEX).nonzero().squeeze(1)
    return port.lm_head(hidden[labelled]), labels[1:][labelled]
