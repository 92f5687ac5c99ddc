"""Pictures in folders, read ahead in batches; statistics of keys over them; a cache keyed by content."""
