"""Where documents come from: source code, folders, JSONL, Parquet; splits and deduplication."""
