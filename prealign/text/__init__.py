"""The data model: modes, schemes, spans, documents, their markup, and shards of them."""
