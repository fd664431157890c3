"""A corpus in the hub's layout: its data as Parquet, and a card that says what is in it."""
