"""What clients, scheduler and workers share: the session, connections, the family."""
