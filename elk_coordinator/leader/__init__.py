"""What only the leader does: stand for election, plan, take back expired leases."""
