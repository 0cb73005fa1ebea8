"""Generated messages, beside their sources."""
