"""What SPOE.txt says of an agent, asked of a running one over TCP in raw bytes."""
