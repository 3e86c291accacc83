"""Texts to vectors. No engine that is loaded from here may report on its users."""

import os

# The wheel of ONNX Runtime makes a device id under ~/.cache and sends what it was used for to its
# maker, unless this is set before it is imported (1.31; its disable_telemetry_events() comes late).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# sentence-transformers and what it stands on.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
