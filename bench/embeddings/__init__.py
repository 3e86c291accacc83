"""The embeddings service against its own encoder, a bare route, a library and a peer.

    python -m bench.embeddings [--only PART] [--rounds 5] [--json]

Each part (`__main__.PARTS`) prints ratios of two things that were measured in one run, in turns,
as medians over the rounds, with the bar beside each; the exit status is 1 when one is missed.
"""
