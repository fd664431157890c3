"""Steps from shards to shards: judge, filter, deduplicate, decontaminate, balance."""
