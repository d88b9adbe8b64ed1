"""The scheduler's part, without a scheduler."""
