"""`make bench-retrieval`: quality, scale, overhead, ingestion and the cache of searches."""
