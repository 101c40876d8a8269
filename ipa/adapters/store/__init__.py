"""The durable store: decisions, what people said about pipelines, and profiles, over SQLite or PostgreSQL."""
