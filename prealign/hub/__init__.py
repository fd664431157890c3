"""What the Hugging Face hub wants: cards in Markdown with YAML in front, and uploads."""
