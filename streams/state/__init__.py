"""State: RocksDB as a cache of the changelog."""
