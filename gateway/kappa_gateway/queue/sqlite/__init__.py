"""The queue in a file, by SQLite: for one gateway, in local mode and in tests."""
