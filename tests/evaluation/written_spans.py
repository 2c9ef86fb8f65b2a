"""Written answers with a time span in seconds, or None.

Written by hand from the published rules: the forms that VideoLLaMA 3's and lmms-eval's scripts for Charades-STA look for,
those of subtitles (SubRip), of JSON, and those that such scripts misread.
"""

Span = tuple[float, float] | None

PLAIN = (
    *(("24.3 - 30.4", (24.3, 30.4)), ("24.3 - 30.4 seconds.", (24.3, 30.4)), ("from 23.1 to 36.8", (23.1, 36.8))),
    *(("24.3-30.4", (24.3, 30.4)), ("24.3–30.4", (24.3, 30.4)), ("24.3 — 30.4", (24.3, 30.4)), ("5s - 7s", (5, 7))),
    *(
        ("5s-7s", (5, 7)),
        ("from 5s to 7s", (5, 7)),
        ("5-7s", (5, 7)),
        ("5 sec to 7 sec", (5, 7)),
        ("5 seconds - 7 seconds", (5, 7)),
    ),
    *(("between 1 and 3 seconds", (1, 3)), ("Between 1.5s and 3s.", (1.5, 3)), ("from about 5s to about 7s", (5, 7))),
    *(
        (".5 - 2.0", (0.5, 2)),
        ("0.5 - 2.", (0.5, 2)),
        ("from .5s to .75s", (0.5, 0.75)),
        ("5 until 7", (5, 7)),
        ("5 → 7", (5, 7)),
    ),
    *(
        ("5.0 ~ 7.5", (5, 7.5)),
        ("5.0...7.5", (5, 7.5)),
        ("1,200 to 1,260 seconds", (1200, 1260)),
        ("1e1 to 2e1", (10, 20)),
    ),
    *(
        ("from 5.0 to 2", (2, 5)),
        ("7 - 5", (5, 7)),
        ("3 - 3", (3, 3)),
        ("The event happens in 3.5 - 6.2 seconds.", (3.5, 6.2)),
    ),
    *(
        ("12.5 15", (12.5, 15)),
        ("3s - 5s, then 7 - 8", (3, 5)),
        ("2 people talk from 3.0 to 5.0", (3, 5)),
        ("500 ms to 2 s", (0.5, 2)),
    ),
    *(("**5.0s - 7.0s**", (5, 7)), ("<think>1 - 2</think>5 - 7", (5, 7)), ("5 seconds to roughly 7 seconds", (5, 7))),
)
BRACKETS = (
    *(
        ("[1.5, 3]", (1.5, 3)),
        ("(1.5, 3)", (1.5, 3)),
        ("[1.5,3]", (1.5, 3)),
        ("[[1.5, 3.0]]", (1.5, 3)),
        ("[5s, 7s]", (5, 7)),
    ),
    *(
        ("The span is [1.5, 3.0].", (1.5, 3)),
        ('["0:05", "1:05"]', (5, 65)),
        ("[[1, 2], [5, 6]]", (1, 2)),
        ("[1.5 - 3]", (1.5, 3)),
    ),
)
JSON = (
    *(
        ('{"start": 1.5, "end": 3.0}', (1.5, 3)),
        ('{"start": "1:05", "end": "1:20"}', (65, 80)),
        ("{'start': 5, 'end': 7}", (5, 7)),
    ),
    *(
        ('```json\n{"start_time": 1.5, "end_time": 3}\n```', (1.5, 3)),
        ('{"end": 8, "start": 3}', (3, 8)),
        ('{"span": [1, 2]}', (1, 2)),
    ),
    *(
        ('[{"start": 1, "end": 2}]', (1, 2)),
        ('{"begin": "00:01", "finish": "00:02"}', (1, 2)),
        ('{"timestamps": [4.0, 9.5]}', (4, 9.5)),
    ),
)
CLOCKS = (
    *(
        ("1:05 - 1:20", (65, 80)),
        ("00:03 - 00:07", (3, 7)),
        ("00:03.5 - 00:07.25", (3.5, 7.25)),
        ("from 0:05 to 1:05", (5, 65)),
    ),
    *(
        ("01:02:03 - 01:02:10", (3723, 3730)),
        ("00:00:03 to 00:00:07", (3, 7)),
        ("00:00:01,500 --> 00:00:04,000", (1.5, 4)),
    ),
    *(
        ("between 1:05 and 1:20", (65, 80)),
        ("1:05–1:20", (65, 80)),
        ("75:30 - 76:00", (4530, 4560)),
        ("starts at 00:00:18 and ends at 00:00:23", (18, 23)),
    ),
    *(
        ("1m5s - 1m20s", (65, 80)),
        ("1m5s to 1m20s", (65, 80)),
        ("1 min 5 sec to 1 min 20 sec", (65, 80)),
        ("5s to 1m5s", (5, 65)),
    ),
    *(
        ("1 minute and 5 seconds to 2 minutes", (65, 120)),
        ("1h2m3s - 1h2m10s", (3723, 3730)),
        ("1 to 2 minutes", (60, 120)),
    ),
    *(
        ("1.5 min - 2 min", (90, 120)),
        ("1'05\" - 1'20\"", (65, 80)),
        ("from 0:05 to 12 seconds", (5, 12)),
        ("(1:05, 1:20)", (65, 80)),
    ),
)
WORDS = (
    *(("start: 12.5, end: 15", (12.5, 15)), ("Starting time: 0.8 seconds\nEnding time: 1.1 seconds", (0.8, 1.1))),
    *(("It starts at 5.2 seconds and ends at 9.1.", (5.2, 9.1)), ("It ends at 9.1s and starts at 5.2s.", (5.2, 9.1))),
    *(
        ("The start time for this event is 0 seconds, and the end time is 12 seconds.", (0, 12)),
        ("begins at 1:05, ends at 1:20", (65, 80)),
    ),
    *(
        ("start and end timestamps: 3, 5", (3, 5)),
        ("从5秒到7秒", (5, 7)),
        ("第5秒到第7秒", (5, 7)),
        ("5秒至7秒", (5, 7)),
        ("5秒-7秒", (5, 7)),
    ),
    *(
        ("1分5秒到1分20秒", (65, 80)),
        ("在5秒和7秒之间", (5, 7)),
        ("开始：5秒，结束：7秒", (5, 7)),
        ("开始时间为 1:05，结束时间为 1:20", (65, 80)),
    ),
    *(("１：０５－１：２０", (65, 80)), ("2分钟到3分钟", (120, 180))),
)
REFUSED = (
    *(
        ("12.5", None),
        ("never", None),
        ("", None),
        ("at 1:05", None),
        ("5 seconds", None),
        ("x5 - y7", None),
        ("1.2.3 - 4.5.6", None),
    ),
    *(
        ("person 1 opens door 2", None),
        ("2023-05-12", None),
        ("3 cats, 2 dogs and 1 bird", None),
        ("1:75 - 1:80", None),
        ("16:9", None),
    ),
    *(
        ("starting at 5s, lasting 3s", None),
        ("for 3 seconds, at 5 seconds", None),
        ("5s, 7s or 9s", None),
        ("25% - 50%", None),
    ),
    *(
        ("frame 12 and frame 15", None),
        ("00:01:02:15 - 00:01:03:10", None),
        ("1:05 - 20", None),
        ("there are 3 of them at 5s", None),
    ),
    *(("<think>5 - 7", None), ("720p, 30fps", None), ("the 1st and the 2nd", None)),
)
ALSO = (  # found when other lists were tried
    *(
        ("starts at 0:05, lasts until 0:07", (5, 7)),
        ("It begins at 5 and continues until 9.", (5, 9)),
        ('{"from": 1, "to": 2}', (1, 2)),
    ),
    *(
        ("between the 5 second mark and the 7 second mark", (5, 7)),
        ("<start>5</start><end>7</end>", (5, 7)),
        ("5s, 7s", (5, 7)),
    ),
    *(
        ("从第5秒开始，到第7秒结束", (5, 7)),
        ("Step 1: 5s to 7s", (5, 7)),
        ("from frame 5 to frame 7", None),
        ("5点到7点", None),
    ),
)
ALL = (*PLAIN, *BRACKETS, *JSON, *CLOCKS, *WORDS, *REFUSED, *ALSO)

FRACTIONS = (  # where shares of the video are asked for
    *(
        ("0.25 - 0.5", (0.25, 0.5)),
        ("25% - 50%", (0.25, 0.5)),
        ("from 25% to 50%", (0.25, 0.5)),
        ("[0.1, 0.9]", (0.1, 0.9)),
    ),
    *((".25 to .5", (0.25, 0.5)), ("25-50%", (0.25, 0.5)), ("1:05 - 1:20", None), ("5s to 7s", None), ("0.5", None)),
)
