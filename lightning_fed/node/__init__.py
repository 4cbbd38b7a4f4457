"""What runs on a machine that holds workers' data for a server elsewhere."""
