"""The demo, and its counts of traffic. One test runs all of it."""
