"""Three hospitals train one network: what runs at the server, and what at a site."""
