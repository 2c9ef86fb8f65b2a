"""Commands that open video, with arguments of things that are not there: the machine is asked before them."""

VIDEO_COMMANDS = {
    "demo": ["demo"],
    "fit": ["fit", "videollama3-tiny"],
    "generate": ["generate", "videollama3-tiny", "--prompt", "What happens?"],
    "chat": ["chat", "videollama3-tiny"],
    "inspect": ["inspect", "videollama3-tiny"],
    "evaluate": ["evaluate", "run", "videollama3-tiny", "--benchmark", "shapes", "--data", "nowhere"],
    "data index": ["data", "index", "rows.jsonl"],
    "data scan": ["data", "scan", "rows.jsonl"],
    "data tune": ["data", "tune", "videollama3-tiny"],
    "data calibrate": ["data", "calibrate", "videollama3-tiny"],
    "new": ["new", "task", "--data", "rows.jsonl"],
    "study run": ["study", "run", "apollo-tiny-design"],
    "export": ["export", "videollama3-tiny", "exported"],
}
