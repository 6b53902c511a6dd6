"""Letters to the person: what they say, and how they leave."""
