"""What a running stack must do, as plain programs against its address.

Standard library alone, Python 3.11 or newer: the system test runs them in its guest, the NixOS VM
tests in theirs. `python3 -m checks.NAME --base-url https://host --key-file FILE --ca FILE`; exit 0,
or 1 with one line on stderr.

    ready     the stack answers with everything that it needs (polls)
    story     documents in, search, an answer with citations out
    auth      no key, a forged key, a key without the scope
    redirect  plain HTTP leads to HTTPS, host and port kept
    store     put documents and write down what must be found
    recall    find exactly these, later
    load      steady requests that must all be answered, while something else goes on
    down      a service that is away gives 503 with Retry-After, the others answer
    metrics   every service's metrics through the loopback listener; runs on the machine itself
    ports     what listens where; runs on the machine itself
"""
