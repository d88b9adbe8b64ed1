"""What travels in task graphs: nodes, and packing large values into them."""
