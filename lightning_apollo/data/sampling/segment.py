"""Segments of videos on the container's clock. Seconds."""

from __future__ import annotations

from lightning_apollo.structures import MediaError, MediaInfo


def segment_of(info: MediaInfo, begin_seconds: float | None, end_seconds: float | None) -> tuple[float, float]:
    """Begin and end of the part to sample from, which is given on the player's clock; None: up to the video's own.

    MediaError where the video does not play in it.
    """
    zero, end_of_video = info.clock_start_seconds, video_end(info)
    begin = info.begin_seconds if begin_seconds is None else max(zero + begin_seconds, info.begin_seconds)
    end = end_of_video if end_seconds is None else min(zero + end_seconds, end_of_video)
    is_whole = begin_seconds is None and end_seconds is None
    if not is_whole and not begin < end:
        raise MediaError(
            info.path,
            f"segment from {begin_seconds} to {end_seconds} s is outside the video, "
            f"which plays from {info.begin_seconds - zero:z.2f} to {end_of_video - zero:z.2f} s",
        )
    return begin, end


def video_end(info: MediaInfo) -> float:
    """End of the last frame."""
    return info.begin_seconds + info.duration_seconds
