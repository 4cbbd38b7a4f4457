"""Code that runs on the server, with Lightning in view."""
