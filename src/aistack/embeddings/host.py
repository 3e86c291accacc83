"""What this machine has that an engine may use: the processor's instructions, a GPU."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

#: Of the processor's flags those that decide how fast an encoder is.
TELLING = re.compile(r"avx2|fma|f16c|avx_vnni\w*|avx512\w+|amx_\w+|asimd\w*|bf16|i8mm|sve\w*")


@cache
def cpu_flags() -> tuple[str, ...]:
    """Those flags, sorted; none where the system does not say (no /proc/cpuinfo)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return tuple(sorted(filter(TELLING.fullmatch, found[1].split()))) if found else ()


def has_gpu() -> bool:
    """Whether a GPU of NVIDIA's (CUDA) or AMD's (ROCm) shows itself to this process."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd"))
