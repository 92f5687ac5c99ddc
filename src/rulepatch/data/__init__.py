"""Image folders, prefetching streams of batches, statistics of keys, and a cache keyed by content."""
