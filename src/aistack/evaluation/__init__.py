"""How well a collection is searched: labels, metrics, bootstrap intervals and stored runs.

    labels      what people judged relevant: JSON lines, or TREC qrels with topics
    metrics     nDCG@10, recall@10, recall@100 and MRR of one ranking
    bootstrap   intervals of a mean, and of a paired difference
    runs        the answers to all queries of a file, stored as JSON, and two of them compared

The command is `aistack eval`; it asks the front door as any user does.
"""
