#!/usr/bin/python3 -sS
"""llama-server with the options that the module uses, on the C++ server inside a Python wheel.

The wheel has no program, only the server as a class. `SET` are the options that set what they set
in the program; `TAKEN` are accepted and change nothing here (no web pages, no GPU, no warm-up: the
wheel's server has none or decides by itself). Any other option ends the start.
"""

import argparse
import os
import signal
import sys
import threading

sys.path.insert(0, "/usr/lib/aistack/site-packages")

SET = {
    "--model": str,
    "--alias": str,
    "--host": str,
    "--port": int,
    "--ctx-size": int,
    "--parallel": int,
    "--threads": int,
    "--batch-size": int,
    "--ubatch-size": int,
    "--cache-type-k": str,
    "--cache-type-v": str,
}
TAKEN = ("--flash-attn", "--threads-batch", "--n-gpu-layers")
TAKEN_FLAGS = ("--no-webui", "--no-ui", "--offline", "--jinja", "--no-warmup", "--log-disable")


def options() -> argparse.ArgumentParser:
    """llama-server's own names."""
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    for name, kind in SET.items():
        parser.add_argument(name, type=kind)
    for name in TAKEN:
        parser.add_argument(name)
    for name in ("--metrics", "--no-slots", *TAKEN_FLAGS):
        parser.add_argument(name, action="store_true")
    return parser


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    import xllamacpp

    asked = options().parse_args()
    if asked.model is None or not os.access(asked.model, os.R_OK):
        sys.exit(f"error: failed to open the model {asked.model}")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked.model
    parameters.model_alias = {asked.alias or os.path.basename(asked.model)}
    parameters.hostnames = [asked.host or "127.0.0.1"]
    parameters.port = asked.port or 8080
    parameters.n_ctx = asked.ctx_size or 4096
    parameters.n_parallel = asked.parallel or 1
    parameters.cpuparams.n_threads = asked.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    parameters.endpoint_metrics = asked.metrics
    parameters.endpoint_slots = not asked.no_slots
    if asked.batch_size:
        parameters.n_batch = asked.batch_size
    if asked.ubatch_size:
        parameters.n_ubatch = asked.ubatch_size
    for name, value in (("k", asked.cache_type_k), ("v", asked.cache_type_v)):
        if value:
            kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}")
            setattr(parameters, f"cache_type_{name}", kind)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(parameters)
    print(f"server is listening on {server.listening_address}", flush=True)
    ended.wait()
    os._exit(0)


if __name__ == "__main__":
    main()
